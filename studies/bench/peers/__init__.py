"""The systems with which the server is compared: Triton, an earlier commit of hangtag, and bare ONNX Runtime.

Each module starts one system, with the same model files.
"""
