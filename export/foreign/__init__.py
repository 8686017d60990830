"""Somebody else's ONNX file -> a model in the repository.

document        the file as it lies there: is it ONNX, is it whole, does it stay in its folder
probe           what a child process does with it, which loads and runs it: what crashes there, crashes alone
child           starting that process, and what becomes of it
samples         made-up inputs for any signature
batching_proof  whether requests may be joined: the same inputs alone and together
intake          all of it, then metadata and publishing
"""
