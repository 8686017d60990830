"""Publish somebody else's ONNX file.

document          read the file: is it ONNX, is it whole, does all of its data lie in its own folder
probe_process     start the probe in a child process, and judge how that process ends
probe             in the child process: load the file, run it, and find out whether its requests may be batched
timing            time the file
converted         have it converted to another precision, and judge what comes back
intake            all of the above, then metadata and publishing
"""
