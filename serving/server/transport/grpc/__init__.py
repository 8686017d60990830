"""The gRPC transport on grpcio's public asynchronous API: services, streams, health and reflection on one port. A
service method translates its message, submits a query and awaits its outcome on the process' event loop."""
