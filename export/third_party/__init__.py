"""Publish somebody else's ONNX file.

document          read the file: is it ONNX, is it whole, does all of its data lie in its own folder
classifier        where it is stated how pictures become its input: put that into the graph, and prove it
processes         run it in child processes, and judge how these end
probe             in a child: load the file, time it, and find out whether its requests may be batched
converted         have it converted to another precision, and judge what comes back
intake            all of the above, then metadata and publishing
"""
