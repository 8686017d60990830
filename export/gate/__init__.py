"""What a file must prove before it is published, in the runtime that will serve it. A module each for:

    structure        ONNX's checker and strict shape inference
    contract         names, datatypes and shapes of inputs and outputs
    parity           the answers of PyTorch, number by number, at every batch size, on real and artificial images
    agreement        the answers of PyTorch, and the truth, on the whole test set
    label_path       both, for a network that answers with a path of labels
    label_threshold  both, for a network whose labels a threshold decides
    batching         the same answer alone and inside any batch; what an empty batch does
    cuda             the same on a GPU, where there is one
    speed            how long a batch takes, beside PyTorch: told, never required

``rules`` says how much of each a precision must reach, and ``prove`` puts the checks together.
"""
