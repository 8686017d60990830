"""The gRPC server on grpcio's public API: services, health, reflection and streams on one port."""
