"""The ONNX file: written, simplified, converted to other precisions, and described by its own metadata."""
