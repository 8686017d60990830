"""The checks that a file must pass before it is published, in the runtime that will serve it.

    prove         runs all checks, first ONNX's checker and strict shape inference on the graph
    parity        each number equals PyTorch's, at every batch size, on real and artificial images; also on a GPU
    label_checks  the labels equal PyTorch's on the whole test set, the accuracy is kept, a temperature changes no label
    batching      an image gets the same answer alone and inside any batch

The file is compared with the network in PyTorch. ``tolerances`` limits the differences for each precision.
"""
