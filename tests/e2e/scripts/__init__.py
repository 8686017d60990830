"""Scripts that the tests run in environments without hangtag.

.venv-peers has NVIDIA's tritonclient; .venv-others has silero-vad and magika, whose wheels contain ONNX models.
"""
