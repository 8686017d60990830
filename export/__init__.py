"""Publish trained weights or any ONNX file into the model repository, after proving each file in the runtime.

Each part imports only parts further down this list (import-linter checks it):

    third_party   ONNX files that are not from hangtag
    quantization  any ONNX file in INT8 or FP16; layers stay in FP32 if the answers would otherwise change too much
    gate          what a file must prove before it is published
    repository    publishing a version as a whole or not at all, and listing versions
    file          making the ONNX file: from PyTorch, simplified, with its metadata
    network       a trained network with preprocessing and outputs, as it is exported

``exporter`` publishes a run, of which ``run_source`` reads the parts. ``third_party.intake`` publishes other people's
files. First, ``predecessors`` compares the new version with the version that serves. ``verify`` computes recorded
figures again.
"""
