"""Reads and writes model repositories in object stores.

``store`` sends requests to an object store, and explains failures. ``mirror`` keeps the copy that a server serves.
``transfer`` pushes and pulls models.
"""
