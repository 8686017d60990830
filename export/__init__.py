"""Publish trained networks and ONNX files into the model repository, after checks in the runtime that will serve them.

import-linter checks that each part imports only parts further down this list:

    third_party   ONNX files that are not from hangtag
    quantization  converts files to int8 or FP16; layers stay in FP32 if the answers would otherwise change too much
    gate          the checks that a file must pass before it is published
    repository    publishing a version as a whole or not at all, and listing versions
    file          making the ONNX file: from PyTorch, simplified, with its metadata
    network       a trained network with preprocessing and outputs, as it is exported

``exporter`` publishes a run, from which ``run_source`` reads the metadata and the images. ``third_party.importer``
publishes other people's files. ``predecessors`` compares a new version with the served version. ``verify``
repeats the recorded measurements.
"""
