"""The command: takes snapshots of a server at an interval, and shows what happened between them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from time import monotonic

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hangtag.options import FiniteRange
from hangtag.serving.client.client import Client
from hangtag.serving.client.top.activity import Snapshot, activities, fetch_metrics
from hangtag.serving.client.top.keyboard import Keyboard, keyboard
from hangtag.serving.client.top.routes import shares
from hangtag.serving.client.top.view import History, view
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
    "--interval", type=FiniteRange(min=0.1), default=1.0, show_default=True, help="Seconds between two snapshots."
)
@click.option("--once", is_flag=True, help="Show what happened between two snapshots, and end.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON per interval, for scripts.")
@credentials_options
def top(server: str, metrics: str | None, interval: float, once: bool, as_json: bool, credentials: Credentials) -> None:
    """Show what a running server is doing: calls, samples and failures a second, batch size and times of each model.

    It calls the protocol's ModelStatistics, so it works with Triton too. Times are means over the requests answered
    in the interval; percentiles need --metrics, and so do the members of routes (docs/routes.md): without it the total
    counts a route's calls once more for each member. q or Ctrl-C ends it. A narrow terminal shows the most
    important columns.

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
                for before, after in _pairs(client, metrics, interval, Keyboard(None)):
                    _print(console, server, before, after, as_json)
                    if once:
                        break
            else:
                history = History()
                waiting = Text(f"waiting for {server} ...")
                with keyboard() as keys, Live(waiting, console=console, auto_refresh=False, screen=True) as live:
                    for before, after in _pairs(client, metrics, interval, keys):
                        live.update(view(server, before, after, console.width, history), refresh=True)
    except KeyboardInterrupt:
        return


def _pairs(client: Client, metrics: str | None, interval: float, keys: Keyboard) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Two snapshots an interval apart, then the second and a third, and so on until the keyboard's `q`."""

    def snapshot() -> Snapshot:
        return Snapshot.from_statistics(monotonic(), client.statistics(), fetch_metrics(metrics) if metrics else None)

    before = snapshot()
    while not keys.quits_within(interval):
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
        routes = {"routes": members} if (members := shares(before, after)) else {}
        click.echo(json.dumps({"seconds": after.time - before.time, **transports, **routes, "models": models}))
    else:
        console.print(view(server, before, after, console.width))
