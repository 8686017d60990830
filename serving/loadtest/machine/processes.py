"""Finds processes and their CPU time in Linux's /proc: descendants, and the processes that listen at an address."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it. Source: Linux, include/net/tcp_states.h
# Programs that pass connections on to a server elsewhere, by the first 15 characters of their names, which the kernel
# keeps.
FORWARDERS = frozenset({"docker-proxy", "rootlessport", "envoy", "haproxy", "nginx", "kubectl", "ssh", "sshd", "socat"})


def family(pid: int) -> set[int]:
    """The ids of a process and all its descendants. Source: proc_tid_children(5)."""
    children: list[str] = []
    for file in (PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):  # The thread has ended.
            children += file.read_text().split()
    return {pid}.union(*(family(int(child)) for child in children))


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, and of those children of theirs that ended and were waited for.

    Source: proc_pid_stat(5), fields 14 to 17.
    """
    ticks = 0
    for pid in pids:
        try:
            words = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It ended.
        ticks += sum(map(int, words[11:15]))
    return ticks / _TICKS_PER_SECOND


def listeners(address: str) -> set[int]:
    """The ids of the processes that accept connections at an address of this machine.

    Empty if they cannot be identified: they belong to another user, run in another network namespace, or forward to a
    server elsewhere, for example from a port that Docker publishes.

    Args:
        address: HOST:PORT, unix:PATH or unix-abstract:NAME.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(address)}
    unseen, processes = set(wanted), set()
    if not wanted:
        return set()  # Without a look at every open file of the machine, which would delay each block.
    for process in PROC.glob("[0-9]*"):
        try:
            sockets = wanted.intersection(str(file.readlink()) for file in (process / "fd").iterdir())
            if sockets and (process / "comm").read_text().strip() in FORWARDERS:
                return set()
        except OSError:
            continue  # It ended, or belongs to another user.
        if sockets:
            processes.add(int(process.name))
            unseen -= sockets
    return set() if unseen else processes


def _inodes(address: str) -> set[str]:
    """The inodes of the listening sockets. Source: proc_pid_net(5)."""
    kind, _, name = address.partition(":")
    if kind in ("unix", "unix-abstract"):
        path = f"@{name}" if kind == "unix-abstract" else "/" + name.lstrip("/")
        rows = [row.split() for row in _lines("unix")]
        return {row[6] for row in rows if len(row) > 7 and row[7] == path and row[3] == "00010000"}  # It accepts.
    port = f"{int(address.rpartition(':')[2]):04X}"
    rows = [row.split() for file in ("tcp", "tcp6") for row in _lines(file)]
    return {row[9] for row in rows if row[1].endswith(f":{port}") and row[3] == _LISTENING}


def _lines(file: str) -> list[str]:
    try:
        return (PROC / "net" / file).read_text().splitlines()[1:]
    except OSError:
        return []
