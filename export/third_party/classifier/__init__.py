"""Make a classifier of pictures of a network.

preprocessing     what is stated about how pixels become the network's input, and the steps that follow
companions        what timm, Hugging Face and Ultralytics wrote about it, into files that lie with it
wrapping          put the preprocessing before the graph, and the softmax behind it
plan              decide by the options and those files whether a file becomes a classifier
pictures          in a child process: compare the published file with the bare one on pictures, and count right answers
proof             have that done, and compare the accuracy with that of the version that serves
"""
