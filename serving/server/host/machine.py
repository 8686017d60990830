"""The CPUs, the memory and the open files that this process may use. A container may have fewer than its host."""

import ctypes
import errno
import gc
import math
import os
import resource
from pathlib import Path

import structlog

log = structlog.get_logger()

_CGROUP = Path("/sys/fs/cgroup")
# Garbage is collected after this many new objects. Python's default is 700, which every burst of calls reaches.
_COLLECT_FROM = 10_000
_SPARE = 256
"""The number of file descriptors that a process needs in addition to connections, for example for libraries."""


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the smaller of the affinity mask's size and the CPU quota rounded up, but at least 1. The quota comes from
    cgroup v2's cpu.max ("quota period" or "max period" in microseconds), or from v1's cfs files."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return allowed if quota in ("max", "-1") else max(1, min(allowed, math.ceil(float(quota) / float(period))))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return allowed


def release_loading_memory() -> None:
    """Give freed memory back to the system after loading, and let the garbage collector skip the loaded objects. Loaded
    objects live as long as the process, so the collector need not traverse them again. A call's objects are freed
    without the collector when the call ends, so the collector needs to run only when far more objects exist."""
    release_freed_memory()
    gc.freeze()
    gc.set_threshold(_COLLECT_FROM, *gc.get_threshold()[1:])


def release_freed_memory() -> None:
    """Give memory that is no longer used back to the system. Closed connections leave reference cycles (with TLS, each
    with a buffer of 256 KiB), and Python seldom collects objects that have lived for a while. glibc keeps freed memory,
    such as a parsed file and an unloaded model's weights, until ``malloc_trim``, which other C libraries lack."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def raise_open_files_limit(connections: int, *, exposed: bool) -> None:
    """Raise the limit on open files to the most that the system allows, and warn if that is too low for
    ``connections``. Only an exposed server limits its connections to this number."""
    needed = connections + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    limit = max(soft, needed) if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS accepts less than the limit that it reports
        limit = soft
    enough = needed if exposed else _SPARE
    if limit < enough:
        advice = "raise the limit (ulimit -n), or lower --max-connections" if exposed else "raise the limit (ulimit -n)"
        log.warning("the limit on open files is below what the server needs", limit=limit, needed=enough, advice=advice)


def check_open_files(*, exhausted: bool) -> bool:
    """Return whether no more files can be opened, and log if this has changed. A process that cannot open files accepts
    no connections. ``exhausted`` is the result of the previous check."""
    fails = False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        fails = error.errno in (errno.EMFILE, errno.ENFILE)
    if fails and not exhausted:
        advice = "raise the limit (ulimit -n), lower --max-connections, or stop what opens too many files"
        log.warning("no more files can be opened; new connections must wait, or are closed", advice=advice)
    elif exhausted and not fails:
        log.info("files can be opened again")
    return fails
