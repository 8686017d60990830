"""Describes this machine, measures the CPU time that other programs take, and finds the processes of a server."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from hangtag.serving import address as server_address

# Programs that forward connections to a server elsewhere.
FORWARDERS = frozenset({"docker-proxy", "rootlessport", "envoy", "haproxy", "nginx", "kubectl", "ssh", "sshd", "socat"})


def family(pid: int) -> set[int]:
    """Return the ids of a process and of all its descendants."""
    with suppress(psutil.NoSuchProcess):
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return {pid}


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of these processes, including children that have ended and were waited for."""
    seconds = 0.0
    for pid in pids:
        with suppress(psutil.Error):  # The process has ended.
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def listeners(address: str) -> set[int]:
    """Return the ids of the processes that accept connections at an address of this machine. The result is empty if the
    processes belong to another user, run in another network namespace, or forward connections to a server elsewhere,
    for example from a port that Docker publishes."""
    kind, _, name = address.partition(":")
    if kind in ("unix", "unix-abstract"):
        path = f"@{name}" if kind == "unix-abstract" else "/" + name.lstrip("/")
        pids = {each.pid for each in psutil.net_connections("unix") if each.laddr == path}
    else:
        _, port = server_address.endpoint(address) or ("", 0)
        tcp = psutil.net_connections("tcp")
        pids = {each.pid for each in tcp if each.status == psutil.CONN_LISTEN and each.laddr.port == port}
    try:
        names = {psutil.Process(pid).name() for pid in pids if pid is not None}
    except psutil.Error:  # The process has ended.
        return set()
    return set() if None in pids or names & FORWARDERS else pids


# The shortest measurement in seconds. The kernel counts CPU time in ticks, usually of 10 ms. In a shorter measurement
# on two CPUs, an error of two ticks would change the share by over 4 percentage points. That is too much, because a
# share of 10 % already makes a run doubtful.
SHORTEST = 0.25


class OtherPrograms:
    """Measures the share of CPU time that other programs have taken since the creation of this object.

    Other programs are all programs except this process, the servers on this machine that listen at `addresses`, and
    the descendants of this process and of these servers. If a listening process cannot be identified, its CPU time
    cannot be subtracted, so the share of other programs is unknown.
    """

    def __init__(self, addresses: Iterable[str] = (), cpu_times: Callable[[], Any] = psutil.cpu_times) -> None:
        listening = [listeners(address) for address in set(addresses)]
        self._servers, self._known = set[int]().union(*listening), all(listening)
        self._cpu_times = cpu_times
        self._begin, self._before, self._own_before = time.monotonic(), cpu_times(), _own_seconds(self._servers)

    def share(self) -> float | None:
        """Return the share of the machine's CPU time that other programs took so far; None if unknown."""
        if not self._known or time.monotonic() - self._begin < SHORTEST:
            return None
        after, own = self._cpu_times(), _own_seconds(self._servers) - self._own_before
        spent = {name: getattr(after, name) - getattr(self._before, name) for name in after._fields}
        # Time in interrupts is not added, because the kernel charges this time to no process. Guest time is not added,
        # because user and nice already include guest time.
        busy = spent["user"] + spent["nice"] + spent["system"] + spent["steal"]
        elapsed = busy + spent["idle"] + spent["iowait"] + spent["irq"] + spent["softirq"]
        return float(min(1.0, max(0.0, (busy - own) / elapsed)))


def _own_seconds(servers: Iterable[int]) -> float:
    return cpu_seconds(family(os.getpid()).union(*map(family, servers)))


def describe() -> dict[str, str]:
    """Return a label and a value for each property of this machine, and for the version of each package."""
    return {
        "CPU": cpu_model(),
        "CPUs usable": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("hangtag", "grpcio", "numpy", "hdrhistogram")},
    }


def cpu_model() -> str:
    """Return the processor's name from Linux, or from Python's module platform on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a distribution"
