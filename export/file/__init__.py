"""Make the ONNX file: export the network from PyTorch, simplify the graph, and add metadata."""
