"""What a process does with its memory once everything is loaded."""

import ctypes
import gc


def release_loading_memory() -> None:
    """What is here now stays: the collector need not look at it again, and what loading took and left goes back.

    glibc keeps the memory that parsing the model files took; other C libraries have no ``malloc_trim`` and do not.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
