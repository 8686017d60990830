"""Convert files: hangtag's networks completely, other networks to int8 with some layers in FP32 if needed.

precision           hangtag's networks in another precision, each a separate model: cnn, cnn-fp16, cnn-int8;
                    convolutions by ONNX Runtime's static quantizer
int8_lstms          LSTMs, by ONNX Runtime's dynamic quantizer, with constant scales
converters          anybody's file by the same quantizer, with some layers in FP32
samples             the user's samples, and which of them calibrate, choose layers and prove the file
agreement           whether two answers to a sample are the same
"""
