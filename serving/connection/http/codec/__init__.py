"""gRPC's messages as HTTP's requests and answers: REST with binary tensors, and POST /v1/classify. No I/O."""
