"""The only part of the server that knows gRPC and the protocol's messages."""

import os

# Whoever polls grpcio's completion queue does the network's work too, instead of gRPC's own threads, which would have
# to wake the one that polls: the hot path is built on that. Other experiments that were asked for stay.
_LISTENER = "event_engine_listener"
_asked = os.environ.get("GRPC_EXPERIMENTS", "")
if _LISTENER not in _asked:
    os.environ["GRPC_EXPERIMENTS"] = f"{_asked},-{_LISTENER}".removeprefix(",")
