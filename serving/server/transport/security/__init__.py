"""Access to the server: bearer tokens, and TLS certificates of the server and of its clients."""
