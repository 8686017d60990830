"""Publish trained weights into the model repository, each file proven before in the runtime that serves it.

Each folder imports only folders further down this list (import-linter checks it):

    report      the HTML report about one export
    calibration the temperature of a classifier's probabilities
    third_party  somebody else's ONNX file
    quantization  any ONNX file in INT8 or FP16; layers stay in FP32 where its answers would change too much
    gate        what a file must prove before it is published
    repository  publishing a version all or nothing, and listing what is there
    file        making the ONNX file: from PyTorch, simplified, in FP16 or INT8 (precision), with its metadata
    network     a trained network with preprocessing and outputs, as it is exported
"""
