"""What does it cost to serve a thousand models that do not fit into memory together?

See README.md in this folder.
"""
