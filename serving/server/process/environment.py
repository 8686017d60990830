"""Prepares the process of a ``hangtag`` command or of a worker. Every command imports this module, so it imports
little. Importing hangtag never prepares the process. A program that runs a ``Server`` itself may call ``prepare``
before its imports; otherwise the server works with gRPC's defaults, and gRPC's core prints to standard error."""

import ctypes
import os
import warnings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE = 1 << 20  # bytes


def prepare() -> None:
    """Set the variables that gRPC, ONNX Runtime and PyTorch read during their import. Call this before importing them.
    Variables that the operator has set keep their values. Also choose how the process takes memory from the system (see
    ``give_back_large_blocks``), and silence Pillow."""
    # gRPC's core prints every failed handshake, and also the errors that grpcio raises. hangtag's log has both.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # PyTorch's threads spin for milliseconds while they wait for each other. If another program uses the CPUs, the
    # spinning threads may take the CPU from the thread that they wait for, and a training step takes up to a hundred
    # times as long. To avoid that, threads spin only a thousand times before they sleep, which is GNU OpenMP's default
    # if threads outnumber CPUs. On idle CPUs this costs nothing measurable, but sleeping at once
    # (OMP_WAIT_POLICY=PASSIVE) makes a training step of lstm a fifth longer.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # Pillow warns of malformed parts of callers' pictures
    give_back_large_blocks()


def give_back_large_blocks() -> None:
    """Make glibc map each block of a MiB or more separately, so that a freed block goes back to the system.

    By default, glibc takes blocks below a threshold from the heap. Each time it frees a larger block, the threshold
    rises to the size of that block, up to 32 MiB. In the heap, a freed block leaves a hole that is often too small for
    the next block, so the memory of a server whose models are replaced would grow. This function does nothing if
    MALLOC_MMAP_THRESHOLD_ is set, or if the C library is not glibc. Source: mallopt(3).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        set_option(_M_MMAP_THRESHOLD, _LARGE)
        set_option(_M_TRIM_THRESHOLD, _LARGE)  # how much free memory glibc keeps at a heap's end
