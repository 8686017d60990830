"""Does a server give memory back when a model is unloaded or replaced?

See README.md in this folder.
"""
