"""``hangtag top``: take snapshots of a server at an interval, and show what happened between the snapshots."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from time import monotonic, sleep
from typing import NamedTuple

import click
from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hangtag.options import Duration
from hangtag.printable import printable
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.client.client import Client
from hangtag.serving.client.top.activity import Activity, Interval, Snapshot, fetch_metrics
from hangtag.serving.credentials import Credentials


@click.command()
@server_option
@click.option(
    "--metrics",
    metavar="URL",
    help="Also show percentiles, queue, workers and transport, from http://HOST:8002/metrics.",
)
@click.option(
    "--interval",
    type=Duration(min=0.1),
    default=1.0,
    show_default=True,
    help="The time between two snapshots, such as 1 or 500ms.",
)
@click.option("--once", is_flag=True, help="Show what happened between two snapshots, and then exit.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON for each interval.")
@credentials_options
def top(server: str, metrics: str | None, interval: float, once: bool, as_json: bool, credentials: Credentials) -> None:
    """Show what a running server is doing: calls, samples and failures a second, batch size and times of each model.

    The command calls the protocol's ModelStatistics, so it works with Triton too. Times are means over the requests
    answered in the interval. Percentiles and the members of routes (docs/reference/routes.md) need --metrics. Without
    --metrics, the total counts a route's calls again for each member. Ctrl-C ends the command. A narrow terminal shows
    only the most important columns. --tls-ca and --token-file apply to --metrics too. With --tls-ca, the command sends
    no token to an http:// address.

    \b
    Examples:
      hangtag top
      hangtag top --metrics http://127.0.0.1:8002/metrics
      hangtag top --once --json | jq '.models[] | {model, calls}'
    """
    console = Console()
    try:
        with Client(server, credentials=credentials) as client:
            if as_json or once or not console.is_terminal:
                for each in _intervals(client, metrics, interval, credentials):
                    _print(console, server, each, as_json)
                    if once:
                        break
            else:
                waiting = Text(f"waiting for {server} ...")
                with Live(waiting, console=console, auto_refresh=False, screen=True) as live:
                    for each in _intervals(client, metrics, interval, credentials):
                        live.update(view(server, each, console.width), refresh=True)
    except KeyboardInterrupt:
        return


def _intervals(client: Client, metrics: str | None, seconds: float, credentials: Credentials) -> Iterator[Interval]:
    """Yield an interval after another, without end."""

    def snapshot() -> Snapshot:
        read = fetch_metrics(metrics, credentials) if metrics else None
        statistics = {(model.name, model.version): model for model in client.statistics()}
        return Snapshot(monotonic(), statistics, read)

    before = snapshot()
    while True:
        sleep(seconds)
        after = snapshot()
        yield Interval(before, after)
        before = after


def _print(console: Console, server: str, interval: Interval, as_json: bool) -> None:
    if as_json:
        models = [
            {key: value for key, value in asdict(activity).items() if value is not None}
            for activity in interval.activities
        ]
        transports = {} if interval.after.metrics is None else {"transports": interval.transports()}
        routes = {"routes": members} if (members := interval.shares()) else {}
        click.echo(json.dumps({"seconds": interval.seconds, **transports, **routes, "models": models}))
    else:
        console.print(view(server, interval, console.width))


_GAP = 2  # The gap between two columns of the table, in characters.
_MIN_MODEL = 12


class Column(NamedTuple):
    """A column of numbers."""

    title: str
    text: Callable[[Activity], str]
    needs_metrics: bool = False


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


_FAILED = "failed/s"
COLUMNS = (  # If the terminal is too narrow, the last columns are left out.
    Column("version", lambda row: row.version),
    Column("calls/s", lambda row: f"{row.calls:,.0f}"),
    Column(_FAILED, lambda row: f"{row.failures:,.1f}"),
    Column("p99 ms", lambda row: _number(row.p99_ms, 2), needs_metrics=True),
    Column("p50 ms", lambda row: _number(row.p50_ms, 2), needs_metrics=True),
    Column("queue ms", lambda row: _number(row.queue_ms, 2)),
    Column("compute ms", lambda row: _number(row.compute_ms, 2)),
    Column("batch", lambda row: _number(row.batch_size, 1)),
    Column("samples/s", lambda row: f"{row.samples:,.0f}"),
    # A route has no queue of its own.
    Column("queued", lambda row: f"{row.queued}/{row.max_queue_size}" if row.max_queue_size else "-", True),
)


def view(server: str, interval: Interval, width: int) -> RenderableType:
    """Draw what happened in an interval."""
    rows, metrics = printable(interval.activities), interval.after.metrics
    calls, samples = interval.callers()
    facts = [server, f"{calls:,.0f} calls/s", f"{samples:,.0f} samples/s"]
    if metrics is not None:
        workers, wanted = (metrics.get((name,), 0) for name in ("hangtag_workers", "hangtag_workers_wanted"))
        facts.append(f"workers {workers:.0f}/{wanted:.0f}")
        facts.append(f"transport {' and '.join(printable(list(interval.transports()))) or 'unknown'}")
    parts: list[RenderableType] = [
        Columns([Text(fact, style="bold") for fact in facts], padding=(0, 3)),
        _table(rows, width, with_metrics=metrics is not None),
    ]
    for route, members in printable(interval.shares()).items():
        listed = ", ".join(f"{member} {share:.1%}" for member, share in members.items())
        parts.append(Text(f"{route}: {listed} of its samples", style="dim"))
    return Group(*parts)


def _table(rows: Sequence[Activity], width: int, *, with_metrics: bool) -> Table:
    names = max(map(cell_len, ["model", *(row.model for row in rows)]))
    left = width - min(names, _MIN_MODEL)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")  # cut-off names could be equal
    cells = [[Text(row.model)] for row in rows]
    for column in COLUMNS:
        if column.needs_metrics and not with_metrics:
            continue
        texts = [column.text(row) for row in rows]
        size = max(map(len, [column.title, *texts]))
        if (left := left - _GAP - size) < 0:
            break
        table.add_column(column.title, justify="right", no_wrap=True, min_width=size)
        for row, row_cells, text in zip(rows, cells, texts, strict=True):
            row_cells.append(Text(text, style="bold red" if column.title == _FAILED and row.failures else ""))
    for row_cells in cells:
        table.add_row(*row_cells)
    return table
