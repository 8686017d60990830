"""Prepares a process of the command ``hangtag``, and the workers of a server.

An import of hangtag never does this. A program that runs a ``Server`` itself may call ``prepare`` before its imports;
otherwise the server works with gRPC's defaults, and gRPC's core prints to standard error.
"""

import os

from hangtag.serving.server.host import memory


def prepare() -> None:
    """Set the variables that gRPC, ONNX Runtime and PyTorch read while they are imported, so call this before.

    Also choose how the process takes memory from the system (see ``memory.give_back_large_blocks``).

    Variables that the operator has set stay.
    """
    # gRPC's core prints every failed handshake, and what grpcio raises as well; our log has both.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # PyTorch's threads wait for each other by spinning, for milliseconds. Where another program uses the CPUs, they
    # spin while the thread that they wait for has none, and a training step takes up to a hundred times as long. A
    # thousand turns, GNU OpenMP's default where threads outnumber CPUs, lose nothing that was measurable on idle CPUs;
    # to sleep at once (OMP_WAIT_POLICY=PASSIVE) made a step of lstm a fifth longer there.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    memory.give_back_large_blocks()


def prints_headers() -> bool:
    """Whether the operator has gRPC's core print what callers send. It has tracers that print every header."""
    return bool(os.environ.get("GRPC_TRACE")) and os.environ.get("GRPC_VERBOSITY", "").upper() in ("DEBUG", "INFO")
