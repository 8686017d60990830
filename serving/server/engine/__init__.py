"""The data plane, independent of the transport: model look-up, validation, computation, and the choice of models."""
