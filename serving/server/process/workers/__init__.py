"""Several processes that serve one port, and the supervisor that starts, watches, restarts and stops them.

The kernel spreads connections over the workers (SO_REUSEPORT). Each is a whole server; a pipe to the supervisor carries
what concerns all of them: loading models, statistics, the end. The supervisor serves nothing but metrics.
"""
