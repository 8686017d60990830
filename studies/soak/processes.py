"""Samples the processes of a server: memory, file descriptors and threads."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from hangtag.serving.loadtest.machine.processes import PROC, family


@dataclass(frozen=True)
class Sample:
    """A process at one moment. Memory in MB (2^20 bytes); `pss_mb` counts a n-th of what n processes share."""

    at: float
    pid: int
    rss_mb: float
    pss_mb: float
    fds: int
    threads: int


def workers(supervisor: int) -> list[int]:
    """The ids of a server's worker processes, the eldest first."""
    children = {pid: PROC / str(pid) for pid in family(supervisor) - {supervisor}}
    started = {}
    for pid, folder in children.items():
        with suppress(OSError):  # It has ended.
            if b"multiprocessing.spawn" in (folder / "cmdline").read_bytes():
                started[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    return sorted(started, key=lambda pid: (started[pid], pid))


def samples(supervisor: int, at: float) -> Iterator[tuple[str, Sample]]:
    """The server's processes, each with its name: "supervisor", "worker 1" (the eldest), and so on."""
    running = workers(supervisor)
    names = ["supervisor", *(f"worker {number}" for number in range(1, len(running) + 1))]
    for name, pid in zip(names, [supervisor, *running], strict=True):
        with suppress(OSError):  # It has ended.
            yield name, sample(pid, at)


def sample(pid: int, at: float) -> Sample:
    """A process as it is now. Raises OSError if it has ended. Source: proc_pid_status(5), proc_pid_smaps(5)."""
    folder = PROC / str(pid)
    status = (folder / "status").read_text()
    return Sample(
        at,
        pid,
        _number(status, "VmRSS") / 1024,
        _number((folder / "smaps_rollup").read_text(), "Pss") / 1024,
        sum(1 for _ in (folder / "fd").iterdir()),
        _number(status, "Threads"),
    )


def _number(text: str, field: str) -> int:
    line = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    if line is None:  # of a process that is ending
        raise ProcessLookupError(field)
    return int(line[1])
