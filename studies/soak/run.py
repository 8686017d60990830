"""Keep two servers under load for an hour, while their models change and their workers are killed."""

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from studies import options, results
from studies.bench.process import cpu_seconds
from studies.page import ROOT
from studies.soak.changes import Changes
from studies.soak.load import Client, Outcome
from studies.soak.report import RESULTS, tables
from studies.soak.servers import Sample, Server, repository, servers
from studies.soak.summary import summary

PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf", "httptools", "uvloop")
SAMPLES = ROOT / "examples/test-images.npz"
CLIENTS = 2
"""Client processes."""
_TICK = 0.25
_SAMPLE_SECONDS = 10.0


class Measurement:
    """The measurement, which `run` fills. A KeyboardInterrupt ends the load early, and is not re-raised."""

    def __init__(
        self,
        planned_seconds: float,
        rate: float,
        servers: Sequence[Server],
        changes: Changes,
        clients: Sequence[Client],
    ) -> None:
        """rate: Calls a second, of all clients together."""
        self.planned_seconds, self.rate = planned_seconds, rate
        self.servers, self.changes, self._clients = servers, changes, clients
        self.samples: dict[tuple[int, str], list[Sample]] = defaultdict(list)
        """(Server's number, process's name) -> samples."""
        self.began = self.ended = time.monotonic()
        self.server_cpus = self.client_cpus = 0.0
        """How many processors the servers and the clients used, on average."""
        self._stop = threading.Event()

    def run(self, version_seconds: float, kill_seconds: float) -> None:
        """Run the load for its duration, with changes and samples, and print a line every minute.

        Args:
            version_seconds: Seconds between two new versions.
            kill_seconds: Seconds between two killed workers.

        Raises:
            click.ClickException: A client process ended too early.
        """
        cpu = self._cpu()
        actions = (
            (self._sample, _SAMPLE_SECONDS, 0.0),
            (self._print, 60.0, 60.0),
            (self.changes.publish, version_seconds, version_seconds),
            (self.changes.kill, kill_seconds, kill_seconds),
        )
        periodic = [threading.Thread(target=self._repeat, args=each) for each in actions]
        for thread in periodic:
            thread.start()
        failed = False
        try:
            with suppress(KeyboardInterrupt):
                while time.monotonic() < self.began + self.planned_seconds and not failed:
                    time.sleep(_TICK)
                    failed = not all(client.alive for client in self._clients)
        finally:
            self._stop.set()
            for thread in periodic:
                thread.join()
        self.ended = time.monotonic()
        self.server_cpus, self.client_cpus = (
            (after - before) / self.seconds for before, after in zip(cpu, self._cpu(), strict=True)
        )
        for client in self._clients:
            client.close()
        if failed:
            raise click.ClickException("a client ended before its time; its traceback is above.")

    @property
    def seconds(self) -> float:
        """The duration of the load."""
        return self.ended - self.began

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all calls that have ended."""
        return [outcome for client in self._clients for outcome in client.outcomes.copy()]

    def _cpu(self) -> tuple[float, float]:
        return (
            sum(server.process.cpu_seconds() for server in self.servers),
            sum(cpu_seconds(client.pid) for client in self._clients),
        )

    def _repeat(self, act: Callable[[], None], period: float, first: float) -> None:
        due = self.began + first
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            act()
            due += period

    def _sample(self) -> None:
        for number, server in enumerate(self.servers):
            for name, sample in server.samples():
                self.samples[number, name].append(sample)

    def _print(self) -> None:
        failed = sum(bool(outcome.error) for outcome in self.outcomes)
        versions, kills = len(self.changes.seconds_to_serve), len(self.changes.kills)
        memory = sum(samples[-1].rss_mb for samples in list(self.samples.values()))
        click.echo(
            f"{(time.monotonic() - self.began) / 60:.0f} minutes: {len(self.outcomes):,} calls, {failed} failed, "
            f"{versions} versions, {kills} kills, {memory:,.0f} MB",
            err=True,
        )


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="How long.")
@click.option("--rate", type=click.FloatRange(1), default=100.0, show_default=True, help="Calls a second.")
@click.option(
    "--version-seconds", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Between two new versions."
)
@click.option(
    "--kill-seconds", type=click.FloatRange(0.1), default=300.0, show_default=True, help="Between two killed workers."
)
@options.MODELS
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
@click.option("--remark", help="What a reader of the page should know of this run.")
def main(
    minutes: float,
    rate: float,
    version_seconds: float,
    kill_seconds: float,
    models: Path,
    out: Path,
    remark: str | None,
) -> None:
    """Keep two servers under a steady mixed load while their models change and their workers are killed.

    \b
    python -m studies soak run                   for the page
    python -m studies soak run --minutes 5       to try it

    Every answer is compared with ONNX Runtime's own. Ctrl-C or SIGTERM ends the load, and what was
    measured so far is kept. The clients share the servers' processors.
    """
    conditions = results.conditions(f"python -m studies soak run{options.given()}", results.versions(PACKAGES))
    with _termination_as_interrupt(), ExitStack() as stack:
        folder = stack.enter_context(repository(models))
        running = stack.enter_context(servers(folder))
        addresses = [server.address for server in running]
        clients = []
        for number in range(CLIENTS):
            clients.append(Client(addresses, models, SAMPLES, rate / CLIENTS, number))
            stack.callback(clients[-1].close)
        measured = Measurement(minutes * 60, rate, running, Changes(folder, running), clients)
        measured.run(version_seconds, kill_seconds)
        line = conditions | summary(measured)
    line["run"] = f"{line['minutes']:.0f} minutes, interrupted" if line["interrupted"] else f"{minutes:g} minutes"
    if remark:
        line["remark"] = remark
    results.record(out, line)
    click.echo("\n\n".join(tables(line).values()))
    for failure in (*line["failures"], *line["problems"], *line["log_errors"]):
        click.echo(failure)
    click.echo(f"wrote {out}")


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, so that the servers are stopped and the results are kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
