"""Model repository -> answers over gRPC. Nothing here imports torch."""
