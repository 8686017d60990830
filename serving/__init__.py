"""Model repository -> answers over gRPC. Nothing here imports torch."""

import os

# gRPC's core prints what grpcio raises as well, and each failed handshake, in a form of its own. Said once, in our own
# words, is enough.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
