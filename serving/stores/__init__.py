"""Reads and writes model repositories in object stores.

``store`` calls a store, and explains why a call failed. ``mirror`` keeps a local copy, which a server serves.
``transfer`` pushes and pulls models.
"""
