"""The gRPC transport on grpcio's public asynchronous API: services, streams, health and reflection on one port. A
service method translates the message, submits a query, and awaits the query's end on the process's event loop."""
