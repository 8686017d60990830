"""The wire format: .proto files, the stubs that ``make proto`` generates from these files, and `tensors`,
which converts numpy arrays to and from the protocol's bytes."""
