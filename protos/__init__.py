"""The wire: .proto files, the stubs generated from them (``make proto``), and how tensors travel."""
