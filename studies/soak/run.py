"""Keeps two servers under load for an hour, while their models change and their workers are killed."""

import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from studies import options, results
from studies.page import ROOT
from studies.server.comparison import package_versions
from studies.soak.measurement import Measurement, Plan
from studies.soak.report import RESULTS, longest, tables
from studies.soak.servers import repository, servers
from studies.soak.summary import summary

PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf", "starlette", "uvicorn", "uvloop")
SAMPLES = ROOT / "examples/test-images.npz"
_WIDTH = 150
_PRINT_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""


@click.command()
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="How long.  [default: 1]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="The same in minutes.")
@click.option("--rate", type=click.FloatRange(1), default=100.0, show_default=True, help="Calls a second.")
@click.option(
    "--version-seconds", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Between two new versions."
)
@click.option(
    "--kill-seconds", type=click.FloatRange(0.1), default=300.0, show_default=True, help="Between two killed workers."
)
@options.MODELS
@click.option(
    "--samples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=SAMPLES,
    show_default="examples/test-images.npz",
    help="The images that are sent, as the array 'image' of a .npz file.",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
@click.option("--remark", help="What a reader of the page should know of this run. `soak remark` writes it later.")
def main(
    hours: float | None,
    minutes: float | None,
    rate: float,
    version_seconds: float,
    kill_seconds: float,
    models: Path,
    samples: Path,
    out: Path,
    remark: str | None,
) -> None:
    """Keep two servers under a steady mixed load while their models change and their workers are killed.

    \b
    python -m studies soak run --hours 1         for the page
    python -m studies soak run --minutes 5       to try it

    Every answer is compared with ONNX Runtime's own. Ctrl-C or SIGTERM ends the load, and what was
    measured so far is kept. The clients share the servers' processors.
    """
    if hours is not None and minutes is not None:
        raise click.UsageError("give --hours or --minutes, not both.")
    seconds = hours * 3600 if hours is not None else minutes * 60 if minutes is not None else 3600.0
    plan = Plan(seconds, rate, version_seconds, kill_seconds)
    command = f"python -m studies soak run --minutes {seconds / 60:g} --rate {rate:g}"
    if (version_seconds, kill_seconds) != (60, 300):
        command += f" --version-seconds {version_seconds:g} --kill-seconds {kill_seconds:g}"
    conditions = results.conditions(command, {"python": platform.python_version()} | package_versions(PACKAGES))
    console = Console(stderr=True)
    with _termination_as_interrupt(), repository(models) as folder, servers(folder) as running:
        measured = Measurement(plan, running, folder, models, samples)
        with _progress(console) as progress:
            task = progress.add_task("", total=seconds)
            printed = 0.0

            def advance() -> None:
                nonlocal printed
                progress.update(task, completed=measured.seconds, description=_state(measured))
                if not console.is_terminal and measured.seconds >= printed + _PRINT_SECONDS:
                    printed = measured.seconds
                    console.print(f"{printed / 60:.0f} minutes: {_state(measured)}", soft_wrap=True)

            measured.run(advance)
        line = conditions | summary(measured)
        line["run"] = (
            f"{line['minutes']:.0f} minutes, interrupted" if line["interrupted"] else f"{seconds / 60:g} minutes"
        )
        if remark:
            line["remark"] = remark
        results.record(out, line)
    screen = Console()
    screen.width = max(screen.width, _WIDTH)
    for table in tables(line):
        screen.print(table)
    for failure in (*line["failures"], *line["problems"], *line["log_errors"]):
        click.echo(failure)
    click.echo(f"wrote {out}")


@click.command()
@click.argument("text")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
def remark(text: str, out: Path) -> None:
    """Write TEXT below the goals of the longest run, such as why one was missed. An empty TEXT takes it away.

    \b
    python -m studies soak remark "A backup ran on the machine from minute 40 to minute 44."
    """
    line = longest(out)
    line["remark"] = text
    results.record(out, line)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, so that the servers are stopped and the results are kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console
    )


def _state(measured: Measurement) -> str:
    _, unexplained = measured.tally.explained_by(measured.changes.kills)
    latest = [samples[-1].rss_mb for samples in list(measured.samples.values()) if samples]
    versions, kills = len(measured.changes.seconds_to_serve), len(measured.changes.kills)
    return (
        f"{measured.tally.calls:,} calls, {len(unexplained)} unexplained errors, {versions} versions, {kills} kills, "
        f"{sum(latest):,.0f} MB"
    )
