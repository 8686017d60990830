"""Data set -> trained weights. Nothing here knows of ONNX or of serving."""
