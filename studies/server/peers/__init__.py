"""What the server is compared with: Triton, an earlier commit of hangtag, and bare ONNX Runtime.

Each module starts one of them with the same model files.
"""
