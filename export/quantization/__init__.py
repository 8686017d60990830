"""Convert files to int8 or fp16: our own networks whole, somebody else's with as many layers in FP32 as it needs.

precision           our own networks in another precision, each a model of its own: cnn, cnn-fp16, cnn-int8
int8_convolutions   convolutions by ONNX Runtime's static quantizer
int8_lstms          LSTMs by its dynamic quantizer, with constant scales; saturation gives the weights their scales
samples             the user's samples, and which of them calibrate, choose and prove
images              samples from a folder of pictures
agreement           whether two answers to a sample are the same
converters          anybody's file in int8 (ONNX Runtime's static quantizer) or fp16, with some layers in FP32
search              which layers stay in FP32
conversion          in a child process: the last five
"""
