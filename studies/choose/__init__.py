"""Do the predictions of `hangtag choose` agree with its load test, and is its recommendation beaten?

See README.md in this folder.
"""
