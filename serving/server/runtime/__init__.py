"""ONNX Runtime, and the only folder that knows it: sessions, IO binding, CUDA graphs and execution providers."""
