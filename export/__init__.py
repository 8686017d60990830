"""Publish trained weights, or anybody's ONNX file, into the model repository, each file proven in the runtime.

Each part imports only parts further down this list (import-linter checks it):

    third_party   somebody else's ONNX file
    quantization  any ONNX file in INT8 or FP16; layers stay in FP32 where its answers would change too much
    gate          what a file must prove before it is published
    repository    publishing a version all or nothing, and listing what is there
    file          making the ONNX file: from PyTorch, simplified, with its metadata
    network       a trained network with preprocessing and outputs, as it is exported

``exporter`` publishes what ``run_source`` or ``file_source`` describes, ``third_party.intake`` other people's files,
both after ``predecessors`` has compared it with the version that serves. ``verify`` computes recorded figures again.
"""
