"""What a file must prove before it is published, in the runtime that will serve it.

    prove         the structure: ONNX's checker and strict shape inference accept the graph; then runs the other checks
    parity        each number equals PyTorch's, at every batch size, on real and artificial images; also on a GPU
    label_checks  the labels equal PyTorch's on the whole test set, no accuracy is lost, a temperature changes no label
    batching      an image gets the same answer alone and inside any batch

The file is compared with a ``reference``: the network in PyTorch, or the FP32 file. ``tolerances`` says how
exact each precision must be, and ``speed`` times the file, which is reported and never required.
"""
