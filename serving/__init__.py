"""Server for a model repository over gRPC and HTTP, its clients, and the load test. Nothing here imports torch."""
