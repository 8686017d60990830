"""The inference server: it loads the models of a repository and answers clients over gRPC and HTTP.
docs/explanation/architecture.md describes the folders in the order in which a request passes through them. A folder
imports only folders below it (import-linter checks this)."""
