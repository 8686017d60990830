"""Convert files: hangtag's networks to FP16 or int8, and other networks to int8, with some layers in FP32 if needed.

precision           hangtag's networks in another precision, each a separate model: cnn, cnn-fp16, cnn-int8;
                    convolutions by ONNX Runtime's static quantizer
int8_lstms          LSTMs, by ONNX Runtime's dynamic quantizer, with constant scales
converters          any file, by the same quantizer, with some layers in FP32
calibration_samples the user's samples: one half calibrates and chooses layers, and the other half checks the file
agreement           whether two files give the same answer to a sample
"""
