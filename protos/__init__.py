"""The wire format: .proto files, the stubs generated from them (``make proto``), and `tensors`, which converts numpy
arrays to and from the protocol's bytes."""
