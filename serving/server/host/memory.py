"""Releases memory that loading models took and no longer needs."""

import ctypes
import gc

_COLLECT_FROM = 10_000  # objects; Python's default, 700, is reached by every burst of calls


def release_loading_memory() -> None:
    """Give memory that loading freed back to the system, and keep the garbage collector off what needs it not.

    Loaded objects live as long as the process, so the collector need not traverse them again. The objects of calls in
    flight are freed when their calls end, without the collector, so it runs only where far more gather. glibc keeps
    the memory that was freed after parsing the model files until ``malloc_trim``, which other C libraries lack.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_FROM, *gc.get_threshold()[1:])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
