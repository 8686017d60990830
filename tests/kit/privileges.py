"""Takes root's privileges over files from a thread, so that a folder's mode holds for it as for anybody."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522
_OVER_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def without_privileges() -> Iterator[None]:
    """Take them from this thread, and from each thread that is started inside the block, for as long as it runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    capabilities = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the higher bits of each
    assert libc.capget(header, capabilities) == 0
    effective = capabilities[0]
    try:
        capabilities[0] = effective & ~_OVER_FILES
        assert libc.capset(header, capabilities) == 0
        yield
    finally:
        capabilities[0] = effective
        assert libc.capset(header, capabilities) == 0
