"""Evaluates a run, an ONNX file or a served model for `hangtag evaluate`.

``Subject`` is one interface to these three kinds of models, so that the same metrics apply to all of them.
"""
