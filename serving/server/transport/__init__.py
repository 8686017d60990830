"""The transports: grpc, native, and what they share. Only this folder knows gRPC and the protocol's messages."""
