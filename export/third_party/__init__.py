"""Publish a third-party ONNX file. Child processes load, run and change the file, because a bad file may end them.

onnx_document  read the file: is it ONNX, is it complete, is all of its data in its own folder
companions     what timm, Hugging Face and Ultralytics wrote about the network, into companion files or metadata
preprocessing  what is stated about how pixels become the network's input, and the steps that follow
wrapping       add the preprocessing before the graph, and the softmax after it
import_options what the user states about the file, and how to publish it
plan           decide from the options and companion files whether to publish a classifier
judge          compare the classifier with the bare network on pictures, and measure its accuracy
probe          load the file, and find out whether its requests may be batched
conversion     convert the file to another precision, and require the same answers
intake         all of the above, then metadata and publishing
"""
