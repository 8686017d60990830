"""The data plane without a transport: look-up, validation, computation, and which models serve."""
