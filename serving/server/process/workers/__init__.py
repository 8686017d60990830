"""Several processes that serve one port, and the supervisor that starts, watches, replaces and stops them.

Each worker is a whole server. The kernel spreads connections over the workers (SO_REUSEPORT). A pipe connects each
worker to the supervisor for what concerns all of them: loading models, statistics, the end. The supervisor itself
serves only metrics.
"""
