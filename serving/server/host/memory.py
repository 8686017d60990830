"""Releases memory that loading models took and no longer needs."""

import ctypes
import gc


def release_loading_memory() -> None:
    """Give memory that loading freed back to the system, and keep the garbage collector off what is loaded.

    Loaded objects live as long as the process, so the collector need not traverse them again. glibc keeps the memory
    that was freed after parsing the model files until ``malloc_trim``, which other C libraries lack.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
