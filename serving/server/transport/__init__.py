"""The transports: grpc, native and http. Each transport's network library is used only in the transport's folder,
except for gRPC, which ``wire`` uses too."""
