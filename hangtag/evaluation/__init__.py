"""Evaluates a run, an ONNX file or a served model for `hangtag evaluate`.

``Subject`` is the common interface of runs, files and served models, so that the same metrics apply to each.
"""
