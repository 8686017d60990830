"""Evaluates a run, an ONNX file or a served model for `hangtag evaluate`, by the same metrics."""
