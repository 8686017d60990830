"""Prepares a process that is a server: ``hangtag serve`` and its workers.

An import of hangtag never does this. A program that runs a ``Server`` itself may call ``prepare`` before its imports;
otherwise the server works with gRPC's defaults, and gRPC's core prints to standard error.
"""

import os

# With this experiment gRPC's own threads do the network's work and wake the thread that polls the completion queue.
# Without it the polling thread does that work, which saves the wake-up: the fast path for ModelInfer is built on that.
_LISTENER = "event_engine_listener"


def prepare() -> None:
    """Set the variables that gRPC and ONNX Runtime read while they are imported, so call this before either import.

    Variables that the operator has set stay; of gRPC's experiments only the one above is added, switched off.
    """
    # gRPC's core prints every failed handshake, and what grpcio raises as well; our log has both.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    experiments = os.environ.get("GRPC_EXPERIMENTS", "")
    if _LISTENER not in experiments:
        os.environ["GRPC_EXPERIMENTS"] = f"{experiments},-{_LISTENER}".removeprefix(",")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
