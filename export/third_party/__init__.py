"""Publish a third-party ONNX file. Child processes load and run it, so that a bad file cannot crash the command.

onnx_document  reads the file, and checks that the model and its external data are complete
companions     reads descriptions of the network by timm, Hugging Face and Ultralytics
preprocessing  the stated preprocessing of pixels, and the steps that compute it
wrapping       adds the preprocessing before the graph, and the softmax after it
import_options the options of the command
plan           decides from the options, the file and its companion files whether to publish a classifier
judge          compares the classifier with the bare network on pictures, and measures its accuracy
probe          loads the file, and finds out whether its requests may be batched
conversion     converts the file to int8, and requires the original's answers
importer       calls the other modules, adds metadata and publishes the file
"""
