"""What comparisons of servers have in common: rounds that are kept as they end, and tables at the end."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from studies import results
from studies.server import h2load
from studies.server.report import BUSY

_WIDTH = 170
"""Columns of the tables, also where the terminal has fewer: they are read from a log."""


def progress_bar(console: Console) -> Progress:
    """A bar with the current measurement, and the time that the others will take."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def measure_rounds(
    rounds: int, measure: Callable[[int], results.Line], conditions: results.Line, out: Path | None, console: Console
) -> list[results.Line]:
    """Measure rounds, and write what is measured after each, so that it is kept if a later one fails.

    Args:
        rounds: How many.
        measure: Measures the round of this number, from 1 on; its "others" is the share of the CPUs that others took.
        conditions: The first line of the results.
        out: The results file; None: nothing is written.
        console: Where progress is printed.

    Returns:
        The lines of the results: the conditions and the rounds.
    """
    lines = [conditions]
    for number in range(1, rounds + 1):
        console.print(f"round {number} of {rounds}")
        lines.append({"run": f"round {number}"} | measure(number))
        if (others := lines[-1]["others"]) > BUSY:
            console.print(f"[yellow]other programs took {others:.0%} of the processors' time: figures are low")
        if out:
            results.write(out, lines)
    return lines


def print_tables(
    tables: Callable[[Mapping[str, Any]], Iterable[Table]], lines: Sequence[results.Line], out: Path | None
) -> None:
    """Print what was measured, and where it was written."""
    screen = Console()
    screen.width = max(screen.width, _WIDTH)
    for table in tables({"conditions": lines[0], "rounds": lines[1:]}):
        screen.print(table)
    click.echo(f"wrote {out}" if out else "wrote nothing: name a file with --out")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python, h2load and those of these packages that are installed."""
    return {"python": platform.python_version(), "h2load": h2load.version()} | package_versions(packages)


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # pygrpc-native is optional.
    return installed
