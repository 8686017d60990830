"""ModelInfer and Classify over pygrpc-native, whose Rust threads do the network I/O outside the interpreter lock."""
