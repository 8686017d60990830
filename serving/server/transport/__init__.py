"""The only part of the server that knows gRPC and the protocol's messages."""

import os

# gRPC's core prints what grpcio raises as well, in a form of its own. Said once, in our own log, is enough.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
