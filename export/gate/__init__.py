"""What a file must prove before it is published, in the runtime that will serve it.

    structure    ONNX's checker and strict shape inference accept the graph
    parity       each number equals PyTorch's, at every batch size, on real and artificial images; also on a GPU
    agreement    the labels equal PyTorch's on the whole test set, no accuracy is lost, a temperature changes no label
    batching     an image gets the same answer alone and inside any batch; what the runtime does with a batch of 0

``prove`` runs them in order against a ``reference``: the network in PyTorch, or the FP32 file. ``tolerances`` says how
exact each precision must be, and ``speed`` compares the file's speed with PyTorch's, which is reported and never
required.
"""
