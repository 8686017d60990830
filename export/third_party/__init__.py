"""Publish somebody else's ONNX file. Whatever loads, runs or changes it does so in a child process, which it may end.

document       read the file: is it ONNX, is it whole, does all of its data lie in its own folder
companions     what timm, Hugging Face and Ultralytics wrote about it, into files that lie with it
preprocessing  what is stated about how pixels become the network's input, and the steps that follow
wrapping       put the preprocessing before the graph, and the softmax behind it
plan           decide by the options and those files whether a file becomes a classifier
pictures       compare the classifier with the bare network on pictures, and count right answers to the user's
probe          load the file, time it, and find out whether its requests may be batched
conversion     convert it to another precision, and require that it answers as before
intake         all of the above, then metadata and publishing
"""
