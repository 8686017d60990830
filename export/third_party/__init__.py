"""Publish somebody else's ONNX file.

document       read the file: is it ONNX, is it whole, does all of its data lie in its own folder
companions     what timm, Hugging Face and Ultralytics wrote about it, into files that lie with it
preprocessing  what is stated about how pixels become the network's input, and the steps that follow
wrapping       put the preprocessing before the graph, and the softmax behind it
plan           decide by the options and those files whether a file becomes a classifier
pictures       in a child process: compare the published file with the bare one, and count right answers
proof          have that done, and compare the accuracy with that of the version that serves
processes      run it in child processes, and judge how these end
probe          in a child: load the file, time it, and find out whether its requests may be batched
converted      have it converted to another precision, and judge what comes back
intake         all of the above, then metadata and publishing
"""
