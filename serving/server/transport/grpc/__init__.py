"""The gRPC transport on grpcio's public API: services, streams, health and reflection on one port. A service method
translates its message, submits a query and waits; interceptors handle tokens, traces and errors."""
