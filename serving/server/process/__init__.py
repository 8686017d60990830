"""The server's processes. The module ``main`` runs the command, and ``server`` is a whole server in one process. If
there are several workers, each worker is a whole server. All workers listen on the same port, and the kernel spreads
connections over them (SO_REUSEPORT). The supervisor itself serves only metrics."""
