"""Make the ONNX file: export from PyTorch, simplify, convert to another precision, and describe it in metadata."""
