"""The inference server: it loads the models of a repository and answers clients over gRPC and HTTP.

docs/explanation/architecture.md describes the folders, through which each request passes from the top to the bottom. A
folder imports only folders below it (import-linter checks it).
"""
