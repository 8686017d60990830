"""What the transports share: the call, codecs, plans, admission, tracing, and statuses of errors over gRPC and HTTP."""
