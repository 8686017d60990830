"""Convert files to int8 or fp16: our own networks whole, somebody else's with as many layers in FP32 as it needs.

precision           our own networks in another precision, each a model of its own: cnn, cnn-fp16, cnn-int8;
                    convolutions by ONNX Runtime's static quantizer
int8_lstms          LSTMs, by ONNX Runtime's dynamic quantizer, with constant scales
converters          anybody's file by the same quantizer, or in fp16, with some layers in FP32
samples             the user's samples, and which of them calibrate, choose and prove
agreement           whether two answers to a sample are the same
"""
