"""Serve the models of a repository over gRPC and HTTP, call it, and load-test it. Nothing in here imports torch."""
