"""Reads and writes model repositories in object stores and in registries of container images.

``store`` calls object stores, and ``registry`` calls registries. ``mirror`` keeps a local copy, which a server serves.
``transfer`` pushes and pulls models.
"""
