"""Live figures on standard error while a test runs: only where a person looks, that is, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from serving.loadtest import units
from serving.loadtest.measuring import session
from serving.loadtest.measuring.accuracy import AccuracyProgress


@contextmanager
def live(console: Console) -> Iterator[Callable[[session.Progress | AccuracyProgress], None]]:
    """A progress line while the context is open; gives the function that updates it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}"),
        TextColumn("[dim]{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("connecting", total=None, figures="", left="")

        def show_accuracy(at: AccuracyProgress) -> None:
            share = f"{at.correct / at.done:.2%} right so far" if at.done else ""
            bar.update(
                task,
                description=f"[bold]{at.target}[/], accuracy",
                completed=at.done,
                total=at.total,
                figures=f"{units.count(at.done)} of {units.count(at.total)} samples  {share}",
                left="",
            )

        def show(at: session.Progress | AccuracyProgress) -> None:
            if isinstance(at, AccuracyProgress):
                show_accuracy(at)
                return
            now = at.snapshot
            errors = f"[red]{units.count(now.failed)} errors[/]" if now.failed else "0 errors"
            bar.update(
                task,
                description=f"[bold]{at.block.target}[/], {at.block.load}",
                completed=at.done,
                total=at.done + max(at.ahead, 0.0),
                figures=f"{units.three_digits(now.rate)} calls/s  p50 {units.duration(now.p50)}  "
                f"p99 {units.duration(now.p99)}  {errors}",
                left=f"{max(at.ahead, 0.0):.0f} s left",
            )

        yield show
