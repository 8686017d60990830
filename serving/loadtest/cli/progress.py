"""Live figures on standard error while a test runs: a table on a terminal, a line now and then elsewhere.

They show what the generator's processes report anyway, and are drawn twice a second: drawing takes CPU that a server
on this machine would have.
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
from hangtag.serving.loadtest.measuring import session
from hangtag.serving.loadtest.measuring.accuracy import AccuracyProgress
from hangtag.serving.loadtest.plan.load import Load, order_of

DRAWN_PER_SECOND = 2
# Seconds between two lines where nobody looks at a terminal: a log of CI shows that it goes on, and stays short.
LINE_INTERVAL = 10.0
# Lines of the terminal that the rows leave free: the title, the header, the bar and the prompt.
FREE_LINES = 6

At = session.Progress | AccuracyProgress


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[At], None]]:
    """Live figures while the context is open; gives the function that is told how the test stands."""
    if not console.is_terminal:
        yield _lines(console, clock)
        return
    board = Board(console)
    with Live(console=console, get_renderable=board.draw, refresh_per_second=DRAWN_PER_SECOND, transient=True):
        yield board.tell


def _lines(console: Console, clock: Callable[[], float]) -> Callable[[At], None]:
    due = clock() + LINE_INTERVAL

    def show(at: At) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + LINE_INTERVAL
            console.print(_sentence(at), highlight=False, markup=False, soft_wrap=True)

    return show


def _sentence(at: At) -> str:
    if isinstance(at, AccuracyProgress):
        return f"{at.target}, accuracy: {_samples(at)}, {_right(at)} right so far"
    now = at.snapshot
    return (
        f"{at.block.target}, {at.block.load}: {units.three_digits(now.rate)} calls/s, p50 {units.duration(now.p50)}, "
        f"p99 {units.duration(now.p99)}, {units.count(now.failed)} errors; {_left(at)}"
    )


@dataclass
class Row:
    """A target under a load: the block that runs or ran last, and the errors of those before it."""

    block: tuple[str, int]  # Phase and round.
    now: Snapshot
    earlier_errors: int = 0


class Board:
    """What is known of each target under each load so far, as a table."""

    def __init__(self, console: Console) -> None:
        """Nothing is known yet."""
        self._console = console
        self._at: At | None = None
        self._rows: dict[tuple[Load, str], Row] = {}

    def tell(self, at: At) -> None:
        """How the test stands now."""
        if isinstance(at, session.Progress):
            if not isinstance(self._at, session.Progress) or self._at.phase != at.phase:
                self._rows = {}
            key, block = (at.block.load, at.block.target), (at.phase, at.block.round)
            last = self._rows.pop(key, None)  # The one that changed last stands last.
            earlier = 0 if last is None else last.earlier_errors + last.now.failed * (last.block != block)
            self._rows[key] = Row(block, at.snapshot, earlier)
        self._at = at

    def draw(self) -> Group | Text:
        """The table as it is now."""
        at = self._at
        if at is None:
            return Text("connecting ...", style="dim")
        if isinstance(at, AccuracyProgress):
            return Group(self._accuracy(at), _bar(at.done, at.total, ""))
        return Group(self._loads(at), _bar(at.done, at.done + at.ahead, _left(at)))

    def _loads(self, at: session.Progress) -> Table:
        table = _table(at.phase, "load", "target", "calls/s", "p50", "p99", "errors")
        table.columns[0].min_width = max(len(str(load)) for load, _ in self._rows)  # Only names are cut.
        latest = list(self._rows.items())[-max(self._console.height - FREE_LINES, 1) :]
        for (load, target), row in sorted(latest, key=lambda item: order_of(item[0][0])):
            now, errors = row.now, row.earlier_errors + row.now.failed
            runs = (load, target) == (at.block.load, at.block.target)
            table.add_row(
                Text(str(load)),
                Text(target, no_wrap=True, overflow="ellipsis"),
                units.three_digits(now.rate),
                units.duration(now.p50),
                units.duration(now.p99),
                Text(units.count(errors), style="bold red" if errors else ""),
                style="bold" if runs else "dim",
            )
        return table

    def _accuracy(self, at: AccuracyProgress) -> Table:
        table = _table("each labelled sample once", "target", "samples", "right so far")
        table.add_row(Text(at.target), _samples(at), _right(at))
        return table


def _table(title: str, *header: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, pad_edge=False)
    for head in header:
        if head in ("load", "target"):
            table.add_column(head, header_style="dim")
        else:
            table.add_column(head, justify="right", no_wrap=True, min_width=8, header_style="dim")
    return table


def _bar(done: float, total: float, left: str) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(total, 1e-9), completed=done, width=30), Text(left, style="dim"))
    return line


def _left(at: session.Progress) -> str:
    return f"{max(at.ahead, 0.0):.0f} s left"


def _samples(at: AccuracyProgress) -> str:
    return f"{units.count(at.done)} of {units.count(at.total)} samples"


def _right(at: AccuracyProgress) -> str:
    return f"{at.correct / at.done:.2%}" if at.done else units.NONE
