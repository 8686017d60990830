"""``hangtag top``: take snapshots of a server at an interval, and show what happened between the snapshots."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from time import monotonic, sleep
from typing import Any

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
from hangtag.serving.client.top.activity import Interval, Row, Snapshot, fetch_metrics
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
    help="The time between two snapshots, such as 1s or 500ms.",
)
@click.option("--once", is_flag=True, help="Show what happened between two snapshots, and then exit.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON for each interval.")
@credentials_options
def top(server: str, metrics: str | None, interval: float, once: bool, as_json: bool, credentials: Credentials) -> None:
    """Show what a running server is doing: calls, samples and failures a second, batch size and times of each model.

    The command calls the protocol's ModelStatistics, so it works with Triton too. Times are means over the requests
    answered in the interval. Percentiles and the members of routes (docs/reference/routes.md) need --metrics. Without
    --metrics, the total also counts the calls that routes make to their members. Ctrl-C ends the command. A narrow
    terminal shows only the most important columns. --tls-ca and --token-file apply to --metrics too. With --tls-ca, the
    command sends no token to an http:// address.

    \b
    Examples:
      hangtag top
      hangtag top --metrics http://127.0.0.1:8002/metrics
      hangtag top --once --json | jq '.models[] | {model, calls}'
    """
    console = Console()
    live = Live(Text(f"waiting for {server} ..."), console=console, auto_refresh=False, screen=True)
    shown = nullcontext() if as_json or once or not console.is_terminal else live
    with suppress(KeyboardInterrupt), Client(server, credentials=credentials) as client, shown:
        for each in _intervals(client, metrics, interval, credentials):
            if as_json:
                click.echo(json.dumps(_document(each)))
            elif shown is live:
                live.update(view(server, each, console.width), refresh=True)
            else:
                console.print(view(server, each, console.width))
            if once:
                break


def _intervals(client: Client, metrics: str | None, seconds: float, credentials: Credentials) -> Iterator[Interval]:
    """Yield one interval after another, without end."""

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


def _document(interval: Interval) -> dict[str, Any]:
    transports = {} if interval.after.metrics is None else {"transports": interval.transports()}
    routes = {"routes": members} if (members := interval.shares()) else {}
    return {"seconds": interval.seconds, **transports, **routes, "models": interval.rows}


_GAP = 2  # The gap between two columns of the table, in characters.
_MIN_MODEL = 20
_FAILED = "failed/s"
_COLUMNS = {
    "version": ("version", ""),
    "calls/s": ("calls", ",.0f"),
    _FAILED: ("failures", ",.1f"),
    "p99 ms": ("p99_ms", ",.2f"),
    "p50 ms": ("p50_ms", ",.2f"),
    "queue ms": ("queue_ms", ",.2f"),
    "compute ms": ("compute_ms", ",.2f"),
    "batch": ("batch_size", ",.1f"),
    "samples/s": ("samples", ",.0f"),
    "queued": ("queued", ""),
}
"""Title of a column -> the value that it shows, and the value's format. If the terminal is too narrow, the last columns
are left out."""
_OF_METRICS = ("p99_ms", "p50_ms", "queued")


def view(server: str, interval: Interval, width: int) -> RenderableType:
    """Draw what happened in an interval."""
    metrics = interval.after.metrics
    calls, samples = interval.callers()
    facts = [server, f"{calls:,.0f} calls/s", f"{samples:,.0f} samples/s"]
    if metrics is not None:
        workers, wanted = (metrics.get((name,), 0) for name in ("hangtag_workers", "hangtag_workers_wanted"))
        facts.append(f"workers {workers:.0f}/{wanted:.0f}")
        facts.append(f"transport {' and '.join(printable(list(interval.transports()))) or 'unknown'}")
    routes = (
        f"{route}: {', '.join(f'{member} {share:.1%}' for member, share in members.items())} of its samples"
        for route, members in printable(interval.shares()).items()
    )
    return Group(
        Columns([Text(fact, style="bold") for fact in facts], padding=(0, 3)),
        _table(printable(interval.rows), width, with_metrics=metrics is not None),
        *(Text(route, style="dim") for route in routes),
    )


def _table(rows: Sequence[Row], width: int, *, with_metrics: bool) -> Table:
    cells = [[Text(row["model"])] for row in rows]
    left = width - min(max(map(cell_len, ["model", *(row["model"] for row in rows)])), _MIN_MODEL)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")  # two names could look the same if truncated
    for title, (key, form) in _COLUMNS.items():
        if key in _OF_METRICS and not with_metrics:
            continue
        texts = [_text(row, key, form) for row in rows]
        size = max(map(len, [title, *texts]))
        if (left := left - _GAP - size) < 0:
            break
        table.add_column(title, justify="right", no_wrap=True, min_width=size)
        for row, row_cells, text in zip(rows, cells, texts, strict=True):
            row_cells.append(Text(text, style="bold red" if title == _FAILED and row["failures"] else ""))
    for row_cells in cells:
        table.add_row(*row_cells)
    return table


def _text(row: Row, key: str, form: str) -> str:
    if key == "queued":  # a route has no queue of its own
        return f"{row['queued']}/{row['max_queue_size']}" if row["max_queue_size"] else "-"
    return format(row[key], form) if key in row else "-"
