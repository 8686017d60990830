"""Convert somebody else's file to int8 or fp16, and keep as many layers in FP32 as its answers need.

samples      the user's samples, and which of them calibrate, choose and prove
images       samples from a folder of pictures, preprocessed as the user says
agreement    whether two answers to a sample are the same
converters   the file in int8 (ONNX Runtime's static quantizer) or fp16, with some layers in FP32
search       which layers stay in FP32
conversion   in a child process: all of the above
"""
