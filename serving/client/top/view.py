"""Draws a server's activity for a terminal: totals, a line of their history, and a table that fits the width."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hangtag.printable import printable
from hangtag.serving.client.top.activity import Activity, Snapshot, activities
from hangtag.serving.client.top.routes import callers, shares

_GAP = 2  # Columns of the terminal between two of the table.
_MIN_MODEL = 12
_BARS = "▁▂▃▄▅▆▇█"
_INTERVALS = 60


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    title: str
    text: Callable[[Activity], str]
    importance: int  # The least important columns are left out where the terminal is too narrow.
    needs_metrics: bool = False


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


_FAILED = "failed/s"
COLUMNS = (
    Column("version", lambda row: row.version, 7),
    Column("calls/s", lambda row: f"{row.calls:,.0f}", 10),
    Column("samples/s", lambda row: f"{row.samples:,.0f}", 2),
    Column(_FAILED, lambda row: f"{row.failures:,.1f}", 9),
    Column("batch", lambda row: _number(row.batch_size, 1), 3),
    Column("queue ms", lambda row: _number(row.queue_ms, 2), 5),
    Column("compute ms", lambda row: _number(row.compute_ms, 2), 4),
    Column("p50 ms", lambda row: _number(row.p50_ms, 2), 6, needs_metrics=True),
    Column("p99 ms", lambda row: _number(row.p99_ms, 2), 8, needs_metrics=True),
    # A route has no queue of its own.
    Column(
        "queued", lambda row: f"{row.queued}/{row.max_queue_size}" if row.max_queue_size else "-", 1, needs_metrics=True
    ),
)


@dataclass
class History:
    """The calls a second of the last intervals, over all models."""

    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_INTERVALS))

    def line(self, width: int) -> str:
        """One character for each interval, as high as its share of the highest rate; empty before the second one."""
        highest = max(self.rates, default=0.0)
        words = f"  at most {highest:,.0f} calls/s"
        shown = list(self.rates)[-max(1, width - len(words)) :]
        if len(shown) < 2 or highest <= 0:
            return ""
        return "".join(_BARS[round(rate / highest * (len(_BARS) - 1))] for rate in shown) + words


def view(server: str, before: Snapshot, after: Snapshot, width: int, history: History | None = None) -> RenderableType:
    """Draw what happened between two snapshots. The history, where there is one, gets another interval."""
    rows = printable(activities(before, after))
    calls, samples = callers(rows, before, after)
    facts = [server, f"{calls:,.0f} calls/s", f"{samples:,.0f} samples/s"]
    if after.metrics is not None:
        facts.append(f"workers {after.metrics.workers:.0f}/{after.metrics.workers_wanted:.0f}")
        facts.append(f"transport {' and '.join(printable(list(after.metrics.transports))) or 'unknown'}")
    parts: list[RenderableType] = [Text(line, style="bold") for line in _lines(facts, width)]
    if history is not None:
        history.rates.append(calls)
        if line := history.line(width):
            parts.append(Text(line, style="cyan", no_wrap=True))
    parts.append(_table(rows, width, with_metrics=after.metrics is not None))
    for route, members in printable(shares(before, after)).items():
        listed = ", ".join(f"{member} {share:.1%}" for member, share in members.items())
        parts.append(Text(f"{route}: {listed} of its samples", style="dim"))
    if history is not None:
        parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _lines(facts: Sequence[str], width: int) -> list[str]:
    """The facts in as few lines as fit."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= width:
            lines[-1] += f"   {fact}"
        else:
            lines.append(fact)
    return lines


def _table(rows: Sequence[Activity], width: int, *, with_metrics: bool) -> Table:
    columns = [column for column in COLUMNS if with_metrics or not column.needs_metrics]
    widths = {column: max(map(len, [column.title, *(column.text(row) for row in rows)])) for column in columns}
    names = max(map(cell_len, ["model", *(row.model for row in rows)]))

    def left() -> int:
        return width - sum(_GAP + widths[column] for column in columns)

    while columns and left() < min(names, _MIN_MODEL):
        columns.remove(min(columns, key=lambda column: column.importance))
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True, overflow="ellipsis", max_width=max(1, left()))
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True, min_width=widths[column])
    for row in rows:
        styles = {_FAILED: "bold red"} if row.failures else {}
        cells = [Text(column.text(row), style=styles.get(column.title, "")) for column in columns]
        table.add_row(Text(row.model), *cells)
    return table
