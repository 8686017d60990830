"""Reads and writes model repositories in object stores and in registries of container images.

``snapshot`` reads a store's content and fetches files, and ``registry`` does the same for a registry. ``mirror`` keeps
a local copy, which a server serves. ``transfer`` pushes and pulls models. ``location`` calls obstore, and explains
obstore's errors.
"""
