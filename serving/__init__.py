"""Serve the models of a repository over gRPC, call such a server, and load-test it. Nothing in here imports torch."""
