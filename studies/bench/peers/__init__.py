"""The systems that are compared with hangtag: Triton, FastAPI, two minimal servers, and bare ONNX Runtime.

All systems use the same model files.
"""
