"""Shows live figures on standard error during a test: a table on a terminal, an occasional line elsewhere.

The figures are those that the generator's processes report anyway. They are drawn only twice a second, because drawing
takes CPU from a server on the same machine.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.messages import Snapshot
from hangtag.serving.loadtest.measuring.accuracy import AccuracyProgress
from hangtag.serving.loadtest.measuring.session import Progress
from hangtag.serving.loadtest.plan.load import Load, sort_key

DRAWS_PER_SECOND = 2
# Seconds between two lines where standard error is no terminal: a CI log shows that the test goes on, and stays short.
LINE_INTERVAL = 10.0
# Terminal lines that the rows leave free: for the title, the header, the bar and the prompt.
FREE_LINES = 6

AnyProgress = Progress | AccuracyProgress


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[AnyProgress], None]]:
    """Show live figures while the context is open. Yields the function to call with each progress."""
    if not console.is_terminal:
        yield _lines(console, clock)
        return
    board = Board(console)
    with Live(console=console, get_renderable=board.draw, refresh_per_second=DRAWS_PER_SECOND, transient=True):
        yield board.update


def _lines(console: Console, clock: Callable[[], float]) -> Callable[[AnyProgress], None]:
    due = clock() + LINE_INTERVAL

    def show(progress: AnyProgress) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + LINE_INTERVAL
            console.print(_sentence(progress), highlight=False, markup=False, soft_wrap=True)

    return show


def _sentence(progress: AnyProgress) -> str:
    if isinstance(progress, AccuracyProgress):
        return f"{progress.target}, accuracy: {_samples(progress)}, {_correct(progress)} right so far"
    block, now = progress.block, progress.snapshot
    return (
        f"{block.target}, {block.load}: {units.three_digits(now.rate)} calls/s, p50 {units.duration(now.p50)}, "
        f"p99 {units.duration(now.p99)}, {units.count(now.failed)} errors; {_time_left(progress)}"
    )


@dataclass
class Row:
    """One target under one load: its current or latest block, and the errors of its earlier blocks."""

    block: tuple[str, int]  # Phase and round.
    now: Snapshot
    earlier_errors: int = 0


class Board:
    """A table of the latest figures of each target under each load."""

    def __init__(self, console: Console) -> None:
        """Create an empty table, to be drawn on this console."""
        self._console = console
        self._progress: AnyProgress | None = None
        self._rows: dict[tuple[Load, str], Row] = {}

    def update(self, progress: AnyProgress) -> None:
        """Take over the progress of the test."""
        if isinstance(progress, Progress):
            if not isinstance(self._progress, Progress) or self._progress.phase != progress.phase:
                self._rows = {}
            key = (progress.block.load, progress.block.target)
            block = (progress.phase, progress.block.round)
            last = self._rows.pop(key, None)  # The row that changed last is inserted last.
            earlier = 0 if last is None else last.earlier_errors + last.now.failed * (last.block != block)
            self._rows[key] = Row(block, progress.snapshot, earlier)
        self._progress = progress

    def draw(self) -> Group | Text:
        """The table at this moment."""
        progress = self._progress
        if progress is None:
            return Text("connecting ...", style="dim")
        if isinstance(progress, AccuracyProgress):
            return Group(self._accuracy(progress), _bar(progress.done, progress.total, ""))
        return Group(self._loads(progress), _bar(progress.done, progress.done + progress.ahead, _time_left(progress)))

    def _loads(self, progress: Progress) -> Table:
        table = _table(progress.phase, "load", "target", "calls/s", "p50", "p99", "errors")
        table.columns[0].min_width = max(len(str(load)) for load, _ in self._rows)  # Only names are cut.
        latest = list(self._rows.items())[-max(self._console.height - FREE_LINES, 1) :]
        for (load, target), row in sorted(latest, key=lambda item: sort_key(item[0][0])):
            now, errors = row.now, row.earlier_errors + row.now.failed
            running = (load, target) == (progress.block.load, progress.block.target)
            table.add_row(
                Text(str(load)),
                Text(target, no_wrap=True, overflow="ellipsis"),
                units.three_digits(now.rate),
                units.duration(now.p50),
                units.duration(now.p99),
                Text(units.count(errors), style="bold red" if errors else ""),
                style="bold" if running else "dim",
            )
        return table

    def _accuracy(self, progress: AccuracyProgress) -> Table:
        table = _table("each labelled sample once", "target", "samples", "right so far")
        table.add_row(Text(progress.target), _samples(progress), _correct(progress))
        return table


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, pad_edge=False)
    for header in headers:
        if header in ("load", "target"):
            table.add_column(header, header_style="dim")
        else:
            table.add_column(header, justify="right", no_wrap=True, min_width=8, header_style="dim")
    return table


def _bar(done: float, total: float, text: str) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(total, 1e-9), completed=done, width=30), Text(text, style="dim"))
    return line


def _time_left(progress: Progress) -> str:
    return f"{max(progress.ahead, 0.0):.0f} s left"


def _samples(progress: AccuracyProgress) -> str:
    return f"{units.count(progress.done)} of {units.count(progress.total)} samples"


def _correct(progress: AccuracyProgress) -> str:
    return f"{progress.correct / progress.done:.2%}" if progress.done else units.NONE
