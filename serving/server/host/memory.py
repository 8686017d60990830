"""Releases memory that loading models took, or that models took, and that nothing needs any more."""

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE = 1 << 20  # bytes
_COLLECT_FROM = 10_000  # objects; Python's default, 700, is reached by every burst of calls


def give_back_large_blocks() -> None:
    """Let glibc map each block of a MiB or more by itself, so that it goes back to the system when it is freed.

    By default glibc raises its threshold to the size of every large block that is freed, up to 32 MiB, and puts blocks
    below it among small ones. There a freed block leaves a hole that the next one often does not fit into, so that a
    server whose models are replaced would grow. It does nothing where MALLOC_MMAP_THRESHOLD_ is set, or with another C
    library. Source: mallopt(3).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        set_option(_M_MMAP_THRESHOLD, _LARGE)
        set_option(_M_TRIM_THRESHOLD, _LARGE)  # of free memory at the end of a heap


def release_loading_memory() -> None:
    """Give memory that loading freed back to the system, and keep the garbage collector off what needs it not.

    Loaded objects live as long as the process, so the collector need not traverse them again. The objects of calls in
    flight are freed when their calls end, without the collector, so it runs only where far more gather.
    """
    release_freed_memory()
    gc.freeze()
    gc.set_threshold(_COLLECT_FROM, *gc.get_threshold()[1:])


def release_freed_memory() -> None:
    """Give memory that nothing refers to any more back to the system.

    Objects of closed connections refer to each other in circles, those of TLS with a buffer of 256 KiB each, and Python
    seldom collects those that lived for a while. glibc keeps what was freed, such as the parsed file of a model and the
    weights of an unloaded one, until ``malloc_trim``, which other C libraries lack.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
