"""How a process that trains gets the memory of its tensors."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the tensors to come, instead of returning it to the kernel.

    Every step allocates the same large tensors and frees them. By default glibc maps the largest anew each time, and
    the kernel has to clear their pages: 60,000 in a step of ``resnet-28x28`` or of ``lstm2`` by the recipe ``best``.
    In exchange the process holds more memory at its peak.

    Returns:
        Whether the C library takes the setting. glibc does; others keep their defaults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # a C library without it; TypeError is Windows'
        return False
    return all(mallopt(parameter, _LARGEST) == 1 for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
