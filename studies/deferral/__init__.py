"""Is there a better rule for what a cascade sends on than the first model's highest probability?

See README.md in this folder.
"""
