"""Releases memory that loading models took, or that models took, and that nothing needs any more."""

import ctypes
import gc

_COLLECT_FROM = 10_000  # objects; Python's default, 700, is reached by every burst of calls


def release_loading_memory() -> None:
    """Give memory that loading freed back to the system, and keep the garbage collector off what needs it not.

    Loaded objects live as long as the process, so the collector need not traverse them again. The objects of calls in
    flight are freed when their calls end, without the collector, so it runs only where far more gather.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_FROM, *gc.get_threshold()[1:])
    release_freed_memory()


def release_freed_memory() -> None:
    """Give memory that is freed already back to the system.

    glibc keeps what was freed, such as the parsed file of a model and the weights of an unloaded one, until
    ``malloc_trim``, which other C libraries lack.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
