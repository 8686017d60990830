"""What a file must prove before it is published, in the runtime that will serve it. One module of ``checks`` each:

    structure        ONNX's checker and strict shape inference accept the graph
    logits           parity: each number equals PyTorch's, at every batch size, on real and artificial images
    label_path       parity, for a network that answers with a path of labels
    agreement        the labels equal PyTorch's on the whole test set, and no accuracy is lost
    calibration      how well probabilities match accuracy; a temperature changes no logit and no label
    batching         an image gets the same answer alone and inside any batch
    empty_batch      what the runtime does with a batch of 0
    cuda             parity on a GPU, where there is one

``prove`` runs them in order against a ``reference``: the network in PyTorch (network_reference), or the FP32 file.
``proof`` is what comes of it; ``tolerances`` says how exact each precision must be, and ``speed`` compares the file's
speed with PyTorch's, which is reported and never required.
"""
