"""Prepares a process of the command ``hangtag``, and the workers of a server.

An import of hangtag never does this. A program that runs a ``Server`` itself may call ``prepare`` before its imports;
otherwise the server works with gRPC's defaults, and gRPC's core prints to standard error.
"""

import os


def prepare() -> None:
    """Set the variables that gRPC and ONNX Runtime read while they are imported, so call this before either import.

    Variables that the operator has set stay.
    """
    # gRPC's core prints every failed handshake, and what grpcio raises as well; our log has both.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
