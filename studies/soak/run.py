"""Keep two servers under load for an hour, while their models change and their workers are killed."""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from studies import options, results
from studies.page import ROOT
from studies.soak.answers import Answers
from studies.soak.changes import Changes
from studies.soak.load import Outcome, load
from studies.soak.report import RESULTS, tables
from studies.soak.servers import Sample, Server, repository, servers
from studies.soak.summary import summary

PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf", "httptools", "uvloop")
SAMPLES = ROOT / "examples/test-images.npz"
_SAMPLE_SECONDS = 10.0


class Measurement:
    """The measurement, which the method `run` makes."""

    def __init__(self, planned_seconds: float, rate: float, servers: Sequence[Server], changes: Changes) -> None:
        """``rate`` is the number of calls a second."""
        self.planned_seconds, self.rate = planned_seconds, rate
        self.servers, self.changes = servers, changes
        self.outcomes: list[Outcome] = []
        self.samples: dict[tuple[int, str], list[Sample]] = defaultdict(list)
        """The measurements of each process. The key is the server's number and the process's name."""
        self.began = self.ended = time.monotonic()
        self.server_cpus = self.client_cpus = 0.0
        """The average number of processors in use by the servers, and by the load."""

    async def run(self, answers: Answers, version_seconds: float, kill_seconds: float) -> None:
        """Run the load, make the changes, take the samples, and print a line every minute.

        SIGINT and SIGTERM end the load early.

        Args:
            answers: The images, and their right answers.
            version_seconds: The interval between new versions, in seconds.
            kill_seconds: The interval between kills of a worker, in seconds.
        """
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        loop.call_later(self.planned_seconds, ended.set)
        self.began, cpu = time.monotonic(), self._cpu()

        async def repeat(act: Callable[[], None], period: float, first: float) -> None:
            due = self.began + first
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await asyncio.to_thread(act)
                due += period

        async def measure() -> None:
            await ended.wait()
            self.ended = time.monotonic()
            used = (after - before for before, after in zip(cpu, self._cpu(), strict=True))
            self.server_cpus, self.client_cpus = (seconds / self.seconds for seconds in used)

        actions = (
            (self._sample, _SAMPLE_SECONDS, 0.0),
            (self._print, 60.0, 60.0),
            (self.changes.publish, version_seconds, version_seconds),
            (self.changes.kill, kill_seconds, kill_seconds),
        )
        async with asyncio.TaskGroup() as group:
            periodic = [group.create_task(repeat(*each)) for each in actions]
            group.create_task(measure())
            await load([server.address for server in self.servers], answers, self.rate, self.outcomes, ended)
            for task in periodic:
                task.cancel()  # asyncio.run waits until the threads end

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def _cpu(self) -> tuple[float, float]:
        return sum(server.process.cpu_seconds() for server in self.servers), time.process_time()

    def _sample(self) -> None:
        for number, server in enumerate(self.servers):
            for name, sample in server.samples():
                self.samples[number, name].append(sample)

    def _print(self) -> None:
        failed = sum(bool(outcome.error) for outcome in self.outcomes.copy())
        versions, kills = len(self.changes.seconds_to_serve), len(self.changes.kills)
        memory = sum(samples[-1].rss_mb for samples in list(self.samples.values()))
        click.echo(
            f"{(time.monotonic() - self.began) / 60:.0f} minutes: {len(self.outcomes):,} calls, {failed} failed, "
            f"{versions} versions, {kills} kills, {memory:,.0f} MB",
            err=True,
        )


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="The duration of the load in minutes.",
)
@click.option(
    "--rate", type=click.FloatRange(1), default=100.0, show_default=True, help="The number of calls a second."
)
@click.option(
    "--version-seconds",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="The interval between new versions, in seconds.",
)
@click.option(
    "--kill-seconds",
    type=click.FloatRange(0.1),
    default=300.0,
    show_default=True,
    help="The interval between kills of a worker, in seconds.",
)
@options.MODELS
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
def main(
    minutes: float,
    rate: float,
    version_seconds: float,
    kill_seconds: float,
    models: Path,
    out: Path,
) -> None:
    """Keep two servers under a steady mixed load while their models change and their workers are killed.

    \b
    python -m studies soak run                   for the page
    python -m studies soak run --minutes 5       to try it

    The command compares every answer with ONNX Runtime's own answer. On Ctrl-C or SIGTERM, the load ends, and the
    command records the figures that it has measured. The load generator runs on the same processors as the servers.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM acts like Ctrl-C and also stops the servers
    conditions = results.conditions(results.versions(PACKAGES))
    with repository(models) as folder, servers(folder) as running:
        measured = Measurement(minutes * 60, rate, running, Changes(folder, running))
        asyncio.run(measured.run(Answers.computed(models, SAMPLES), version_seconds, kill_seconds))
        line = conditions | summary(measured)
    line["run"] = f"{line['minutes']:.0f} minutes, interrupted" if line["interrupted"] else f"{minutes:g} minutes"
    results.record(out, line)
    click.echo("\n\n".join(tables(line).values()))
    for failure in (*line["failures"], *line["problems"], *line["log_errors"]):
        click.echo(failure)
    click.echo(f"wrote {out}")
