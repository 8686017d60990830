"""The data plane without a transport: look-up, validation and computation, and the choice of models that serve."""
