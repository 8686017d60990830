"""The wire format: .proto files, and the stubs that ``make proto`` generates from them. The module `tensors` converts
numpy arrays to and from the protocol's bytes."""
