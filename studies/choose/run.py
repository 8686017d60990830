"""Compare the predictions of `hangtag choose` with its load test, with all processors and with one."""

import multiprocessing
import os
import threading
from collections.abc import Set
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click

from hangtag.choose.choice import Choice, Row, choose
from hangtag.choose.measuring import measure
from hangtag.choose.trial import Tested
from hangtag.serving.loadtest.statistics.intervals import wilson
from studies import options
from studies.page import percent, table

_HEAD = ("candidate", "predicted calls/s", "measured", "ratio", "right", "through the server", "95 % interval")


@click.command()
@options.MODELS
@click.option("--data", help="Labelled pictures, as for `hangtag choose`. [default: validation images]")
@click.option("--tries", type=click.IntRange(1, 20), default=3, show_default=True, help="As for `hangtag choose`.")
@click.option("--seconds", type=click.FloatRange(0.1), default=4.0, show_default=True, help="Of each load test.")
@click.option("--limit", type=click.IntRange(1), help="Use the first images only.")
def main(models: Path, data: str | None, tries: int, seconds: float, limit: int | None) -> None:
    """Let `hangtag choose` choose, with all processors and with one, and print the tables of the README.

    Each choice runs in a process of its own; the server and the load test that it starts have the same processors.
    """
    available = os.sched_getaffinity(0)
    for processors in dict.fromkeys((frozenset(available), frozenset({min(available)}))):
        with ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            initializer=os.sched_setaffinity,
            initargs=(0, processors),
        ) as pool:
            text = pool.submit(_choice, models, data, tries, seconds, limit, processors).result()
        click.echo(f"\n{text}")


def _choice(models: Path, data: str | None, tries: int, seconds: float, limit: int | None, processors: Set[int]) -> str:
    """A choice on these processors, in Markdown."""
    click.echo(f"With {len(processors)} of {os.cpu_count()} processors:", err=True)
    show = partial(click.echo, err=True)
    choice = choose(
        models,
        measure(models, (), data, limit=limit, on_step=show),
        accuracy=None,
        p99=None,
        rate=None,
        tries=tries,
        seconds=seconds,
        on_step=show,
        on_progress=lambda _: None,
        stop=threading.Event(),
    )
    tested = [(row, row.tested) for row in choice.rows if row.tested]
    rows = [_row(choice, row, figures) for row, figures in tested]
    lines = [f"With {len(processors)} of {os.cpu_count()} processors, {choice.measured.shown}:", ""]
    lines += [table(_HEAD, rows, right=6), "", _verdict(choice, tested)]
    for row, figures in tested:
        lines += [f"{row.candidate.label} does not count: {problem}." for problem in figures.problems]
        lines += [f"{row.candidate.label} is doubtful: {figures.doubt}."] if figures.doubt else []
    return "\n".join(lines)


def _row(choice: Choice, row: Row, tested: Tested) -> tuple[str, ...]:
    predicted, images = row.predicted.peak.throughput, len(choice.measured.classes)
    interval = wilson(round(row.candidate.accuracy * images), images)
    inside = "within" if interval.low <= tested.accuracy <= interval.high else "outside"
    return (
        row.candidate.label,
        f"{predicted:,.0f}",
        f"{tested.throughput:,.0f}",
        f"{predicted / tested.throughput:.2f}",
        percent(row.candidate.accuracy),
        percent(tested.accuracy),
        f"{inside} {percent(interval.low)} to {percent(interval.high)}",
    )


def _verdict(choice: Choice, tested: list[tuple[Row, Tested]]) -> str:
    """Whether a measured candidate is both faster and more accurate than the recommended one."""
    best = choice.nearest
    better = [
        row.candidate.label
        for row, figures in tested
        if figures.throughput > best.throughput and figures.accuracy > best.accuracy
    ]
    state = "Recommended" if choice.is_met else "Nothing meets the requirements; the nearest"
    beaten = f"beaten in both figures by {', '.join(better)}" if better else "beaten in both figures by none"
    return f"{state}: {best.candidate.label}, {beaten}."
