"""The server's processes: ``main`` runs the command, ``server`` is a whole server in one process.

With several workers, each is a whole server on the same port, over which the kernel spreads connections (SO_REUSEPORT).
A pipe connects each worker to the supervisor for what concerns all workers: loading models, statistics and stopping.
The supervisor itself serves only metrics.
"""
