"""The servers under load, over one repository: a server on the native transport, and a server with TLS behind Envoy."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from hangtag.serving.loadtest.machine import family
from hangtag.serving.model_repository import serving_versions
from studies.bench.process import Served, hangtag_serve, kilobytes, served
from studies.bench.systems import with_tls
from studies.soak.answers import ACCURATE, FAST, MODELS, ROUTE, SHADOWED
from studies.soak.connections import SPLIT, STICKY, Address

WORKERS = 2
CONNECTION_AGE_SECONDS = 60
"""After this time the server with TLS makes clients connect again, which the native transport cannot."""
_POLL_SECONDS = 2
_ROUTES = {
    SPLIT: f'split = {{{FAST} = 50, {ACCURATE} = 50}}\nsticky = "{STICKY}"\n',
    SHADOWED: f'split = {{{FAST} = 100}}\nshadow = {{model = "{ACCURATE}", share = 0.5}}\n',
}
"""The route.toml of each route that the shipped repository does not have."""


@dataclass(frozen=True)
class Server:
    """A server of the study.

    Args:
        name: The server's transport, for a reader.
        process: The server's process.
        explicit: Whether the server loads new versions on a client's request, instead of polling the repository.
    """

    name: str
    process: Served
    explicit: bool

    @property
    def address(self) -> Address:
        ca = self.process.ca
        return Address(self.name, self.process.address, self.process.http, None if ca is None else str(ca))

    def workers(self) -> list[int]:
        """The ids of the worker processes, the oldest first."""
        started = {}
        for pid in family(self.process.pid) - {self.process.pid}:
            folder = Path("/proc", str(pid))
            with suppress(OSError):  # It has ended.
                if b"multiprocessing.spawn" in (folder / "cmdline").read_bytes():
                    started[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
        return sorted(started, key=lambda pid: (started[pid], pid))

    def samples(self) -> Iterator[tuple[str, "Sample"]]:
        """Yield a sample of each process, with the process's name: "supervisor", "worker 1" (the oldest), and so on."""
        for number, pid in enumerate([self.process.pid, *self.workers()]):
            with suppress(OSError):  # It has ended.
                yield f"worker {number}" if number else "supervisor", Sample.of(pid)


@dataclass(frozen=True)
class Sample:
    """A process at one moment. Memory in MB (2^20 bytes). `pss_mb` counts an n-th of memory that n processes share."""

    at: float
    pid: int
    rss_mb: float
    pss_mb: float
    fds: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Sample":
        """Sample a process now. Raises OSError if the process has ended."""
        fds, threads = (sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir()) for folder in ("fd", "task"))
        rss, pss = (kilobytes(pid, *field) / 1024 for field in (("status", "VmRSS"), ("smaps_rollup", "Pss")))
        return cls(time.monotonic(), pid, rss, pss, fds, threads)


@contextmanager
def repository(models: Path) -> Iterator[Path]:
    """Copy everything that is called: the serving versions of MODELS, ROUTE, a split, and a route with a shadow.

    Raises:
        click.ClickException: A model or the route is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "models")
        files = {file.name: file for file in serving_versions(models)}
        for model in MODELS:
            if model not in files:
                raise click.ClickException(f"{models} has no {model}, which this study calls.")
            shutil.copytree(files[model].path.parent, folder / model / str(files[model].version))
        if not (models / ROUTE).is_dir():
            raise click.ClickException(f"{models} has no {ROUTE}, which this study calls.")
        shutil.copytree(models / ROUTE, folder / ROUTE)
        for route, text in _ROUTES.items():
            (folder / route).mkdir()
            (folder / route / "route.toml").write_text(text)
        yield folder


@contextmanager
def servers(models: Path) -> Iterator[Sequence[Server]]:
    """Run the servers until the end of the context.

    Raises:
        click.ClickException: A server does not start, or does not stop as it should.
    """
    shared = ("--workers", str(WORKERS))
    poll = ("--model-control", "poll", "--poll-seconds", str(_POLL_SECONDS))
    explicit = ("--model-control", "explicit", "--load-model", "*")
    age = ("--connection-age-seconds", str(CONNECTION_AGE_SECONDS))
    with ExitStack() as stack:
        native = stack.enter_context(served(hangtag_serve(models, "--transport", "native", *shared, *poll)))
        launch = stack.enter_context(with_tls(models, "--transport", "grpc", *shared, *explicit, *age))
        tls = stack.enter_context(served(launch))
        yield Server("native", native, explicit=False), Server("grpc with TLS", tls, explicit=True)
