"""The servers under load, which share a repository: a trusted server, and an exposed server behind Envoy with TLS."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from studies.bench import systems
from studies.bench.process import Served, hangtag_serve, served
from studies.soak.answers import ACCURATE, FAST, MODELS, ROUTE, SHADOWED
from studies.soak.connections import SPLIT, STICKY, Address

WORKERS = 2
_CONNECTION_AGE_SECONDS = 60
"""The exposed server closes a connection after this time, so that clients connect again."""
_POLL_SECONDS = 2
_ROUTES = {
    SPLIT: f'split = {{{FAST} = 50, {ACCURATE} = 50}}\nsticky = "{STICKY}"\n',
    SHADOWED: f'split = {{{FAST} = 100}}\nshadow = {{model = "{ACCURATE}", share = 0.5}}\n',
}
"""The route.toml of each route that is not in the shipped repository."""


@dataclass(frozen=True)
class Server:
    """A server of the study.

    Args:
        name: The server's name in the results, such as "trusted".
        process: The server's process.
        explicit: Whether versions are loaded only at a client's request. Otherwise, the server polls the repository.
    """

    name: str
    process: Served
    explicit: bool

    @property
    def address(self) -> Address:
        return Address(self.name, self.process.address, self.process.http, self.process.ca)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes, beginning with the oldest."""
        started = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # It has ended.
                if any("multiprocessing.spawn" in word for word in process.cmdline()):
                    started[process] = process.create_time()
        return sorted(started, key=lambda process: (started[process], process.pid))

    def samples(self) -> Iterator[tuple[str, "Sample"]]:
        """Yield a sample of each process, with the process's name: "supervisor", "worker 1" (the oldest), and so on."""
        for number, process in enumerate([psutil.Process(self.process.pid), *self.workers()]):
            with suppress(psutil.Error):  # It has ended.
                memory, counts = process.memory_info().rss / 2**20, (process.num_fds(), process.num_threads())
                name = f"worker {number}" if number else "supervisor"
                yield name, Sample(time.monotonic(), process.pid, memory, *counts)


class Sample(NamedTuple):
    """The state of a process at one moment. The resident memory (RSS) is in MB (2^20 bytes)."""

    at: float
    pid: int
    rss_mb: float
    fds: int
    threads: int


FIGURES = ("rss_mb", "fds", "threads")


def repository(models: Path) -> AbstractContextManager[Path]:
    """Yield a repository for the load test: MODELS, ROUTE, a split, and a route with a shadow.

    Raises:
        click.ClickException: A model or the route is missing.
    """
    return systems.repository(models, (*MODELS, ROUTE), _ROUTES)


@contextmanager
def servers(models: Path) -> Iterator[Sequence[Server]]:
    """Run the servers until the end of the context.

    Raises:
        click.ClickException: A server did not start, or did not stop with exit code 0.
    """
    shared = ("--workers", str(WORKERS))
    poll = ("--model-control", "poll", "--poll-seconds", str(_POLL_SECONDS))
    explicit = ("--model-control", "explicit", "--load-model", "*")
    age = ("--connection-age-seconds", str(_CONNECTION_AGE_SECONDS))
    with ExitStack() as stack:
        trusted = stack.enter_context(served(hangtag_serve(models, *shared, *poll)))
        exposed = stack.enter_context(served(stack.enter_context(systems.with_tls(models, *shared, *explicit, *age))))
        yield Server("trusted", trusted, explicit=False), Server("exposed", exposed, explicit=True)
