"""Measures the server on both transports, an earlier server, Triton and bare ONNX Runtime, which take turns."""

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from studies import results
from studies.server import h2load
from studies.server.peers.bare import bare
from studies.server.report import BUSY, RESULTS, tables
from studies.server.rounds import Rounds
from studies.server.scenarios import LOADS
from studies.server.systems import EARLIER, SYSTEMS, launches

WIDTH = 170
"""Columns of the tables, also where the terminal has fewer: they are read from a log."""
PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf")


def names_option(known: Callable[[], tuple[str, ...]]) -> Callable[..., tuple[str, ...]]:
    """A callback for an option that lists names, with a comma between them."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
        if value is None:
            return known()
        names = tuple(name.strip() for name in value.split(","))
        if unknown := set(names) - set(known()):
            raise click.BadParameter(f"{', '.join(sorted(unknown))}: expected some of {','.join(known())}.")
        return tuple(name for name in known() if name in names)

    return read


@click.command()
@click.option(
    "--only", callback=names_option(lambda: tuple(SYSTEMS)), help=f"The systems: {','.join(SYSTEMS)}; default all."
)
@click.option(
    "--loads", callback=names_option(lambda: tuple(LOADS)), help=f"The loads: {','.join(LOADS)}; default all."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each system.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=3.0,
    show_default=True,
    help="Duration of each load, approximately.",
)
@click.option("--commit", default=EARLIER, show_default=True, help="The commit of the earlier server.")
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The results file. [default: the page's, if all systems and loads are measured]",
)
def main(
    only: tuple[str, ...],
    loads: tuple[str, ...],
    rounds: int,
    seconds: float,
    commit: str,
    models: Path,
    out: Path | None,
) -> None:
    """Compare the server with other systems on a machine that does nothing else.

    \b
    python -m studies server run                                       everything, for the page
    python -m studies server run --only native,triton --loads 16,64    a short comparison

    Needs h2load (Debian: nghttp2-client), for Triton 'make triton', and for the earlier server git. The load
    generator shares the server's processors. What is measured relative to bare ONNX Runtime needs the system bare.
    """
    complete = set(only) == set(SYSTEMS) and set(loads) == set(LOADS)
    out = out or (RESULTS if complete else None)
    if only == ("bare",):
        raise click.UsageError("--only names no server: add one, such as native.")
    console = Console(stderr=True)
    command = f"python -m studies server run --rounds {rounds} --seconds {seconds:g}"
    command += "" if complete else f" --only {','.join(only)} --loads {','.join(loads)}"
    conditions = results.conditions(command, versions(PACKAGES)) | {"commit": commit}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        servers = launches(only, models, commit, stack)
        threads = len(os.sched_getaffinity(0))
        runtime = stack.enter_context(bare(models, threads)) if "bare" in only else None
        progress = stack.enter_context(Progress(*columns, console=console))
        task = progress.add_task("")

        def advance(description: str) -> None:
            progress.update(task, description=description, advance=1)

        def say(line: str) -> None:
            console.print(line, soft_wrap=True)

        measured = Rounds(servers, runtime, loads, seconds, advance, say)
        progress.update(task, total=rounds * measured.steps, completed=-1)
        lines = [conditions]
        for number in range(1, rounds + 1):
            console.print(f"round {number} of {rounds}")
            lines.append({"run": f"round {number}"} | measured.measure(number))
            if (others := lines[-1]["others"]) > BUSY:
                console.print(f"[yellow]other programs took {others:.0%} of the processors' time: figures are low")
            if out:
                results.write(out, lines)  # What is measured is kept if a later round fails.
    screen = Console()
    screen.width = max(screen.width, WIDTH)
    for table in tables({"conditions": conditions, "rounds": lines[1:]}):
        screen.print(table)
    click.echo(f"wrote {out}" if out else "wrote nothing: name a file with --out")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python, h2load and those of these packages that are installed."""
    found = {"python": platform.python_version(), "h2load": h2load.version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # pygrpc-native is optional.
    return found
