"""``hangtag top``: show what a running server is doing, refreshed at an interval."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from time import monotonic, sleep

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hangtag.serving.client.activity import Activity, Snapshot, activities, fetch_metrics
from hangtag.serving.client.client import Client
from hangtag.serving.credentials import Credentials
from hangtag.serving.options import credentials_options, server_option


@click.command()
@server_option
@click.option(
    "--metrics",
    metavar="URL",
    help="Show its metrics too, http://HOST:8002/metrics: percentiles, queue, workers, transport.",
)
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two snapshots."
)
@click.option("--once", is_flag=True, help="Show what happened between two snapshots, and end.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON per interval, for scripts.")
@credentials_options
def top(server: str, metrics: str | None, interval: float, once: bool, as_json: bool, credentials: Credentials) -> None:
    """Show what a running server is doing: calls, samples and failures a second, batch size and times of each model.

    It calls the protocol's ModelStatistics, so it works with Triton too. Times are means over the requests answered
    in the interval; percentiles need --metrics. Ctrl-C ends it.

    \b
    Examples:
      hangtag top
      hangtag top --metrics http://127.0.0.1:8002/metrics
      hangtag top --once --json | jq '.models[] | {model, calls}'
    """
    console = Console()
    try:
        with Client(server, credentials=credentials) as client:
            pairs = _pairs(client, metrics, interval)
            if as_json or once or not console.is_terminal:
                for before, after in pairs:
                    _print(console, server, before, after, as_json)
                    if once:
                        break
            else:
                with Live(Text(f"waiting for {server} ..."), console=console, auto_refresh=False, screen=True) as live:
                    for before, after in pairs:
                        live.update(_view(server, before, after), refresh=True)
    except KeyboardInterrupt:
        return


def _pairs(client: Client, metrics: str | None, interval: float) -> Iterator[tuple[Snapshot, Snapshot]]:
    def snapshot() -> Snapshot:
        return Snapshot.from_statistics(monotonic(), client.statistics(), fetch_metrics(metrics) if metrics else None)

    before = snapshot()
    while True:
        sleep(interval)
        after = snapshot()
        yield before, after
        before = after


def _print(console: Console, server: str, before: Snapshot, after: Snapshot, as_json: bool) -> None:
    if as_json:
        models = [
            {key: value for key, value in asdict(activity).items() if value is not None}
            for activity in activities(before, after)
        ]
        transports = {} if after.metrics is None else {"transports": after.metrics.transports}
        click.echo(json.dumps({"seconds": after.time - before.time, **transports, "models": models}))
    else:
        console.print(_view(server, before, after))


def _view(server: str, before: Snapshot, after: Snapshot) -> RenderableType:
    rows = activities(before, after)
    head = (
        f"{server}   {sum(row.calls for row in rows):,.0f} calls/s   {sum(row.samples for row in rows):,.0f} samples/s"
    )
    if after.metrics is not None:
        head += f"   workers {after.metrics.workers:.0f}/{after.metrics.workers_wanted:.0f}"
        head += f"   transport {' and '.join(after.metrics.transports) or 'unknown'}"
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    columns = ["version", "calls/s", "samples/s", "failed/s", "batch", "queue ms", "compute ms"]
    if after.metrics is not None:
        columns += ["p50 ms", "p99 ms", "queued"]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*_cells(row, with_metrics=after.metrics is not None))
    return Group(Text(head, style="bold"), table)


def _cells(row: Activity, *, with_metrics: bool) -> list[RenderableType]:
    failed = Text(f"{row.failures:,.1f}", style="bold red" if row.failures else "")
    cells: list[RenderableType] = [
        Text(row.model),
        row.version,
        f"{row.calls:,.0f}",
        f"{row.samples:,.0f}",
        failed,
        _number(row.batch_size, 1),
        _number(row.queue_ms, 2),
        _number(row.compute_ms, 2),
    ]
    if with_metrics:
        cells += [_number(row.p50_ms, 2), _number(row.p99_ms, 2), f"{row.queued}/{row.max_queue_size}"]
    return cells


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
