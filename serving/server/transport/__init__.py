"""The transports: grpc, native and http. Only a transport uses its own library; ``wire`` also uses gRPC."""
