"""``hangtag loadtest``: parse, measure, render."""

import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
from rich.console import Console

from serving.credentials import Credentials, credentials_options
from serving.loadtest import comparison, document, environment, html, progress, samples, session, table
from serving.loadtest.results import Results
from serving.loadtest.scenario import Scenario
from serving.loadtest.target import Target, probe
from serving.loadtest.worker import GeneratorProcess

_DEFAULTS = {field.name: field.default for field in fields(Scenario)}
_Command = TypeVar("_Command", bound=Callable[..., Any])


class CommaList(click.ParamType[Any]):
    """Numbers of one type, separated by commas: 1,8,64."""

    name = "list"

    def __init__(self, of: type[int] | type[float]) -> None:
        self._of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._of(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,8,64", param, ctx)


class Seconds(click.ParamType[float]):
    """A duration: 2, 2s, 500ms, 1m. Seconds where there is no unit."""

    name = "duration"
    _UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = next((unit for unit in self._UNITS if text.endswith(unit)), "")
        try:
            return float(text.removesuffix(unit)) * self._UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 2s or 500ms", param, ctx)


def setting(flag: str, help_text: str, type: click.ParamType[Any] | None = None) -> Callable[[_Command], _Command]:
    """An option of the scenario's field of the same name, with the field's default."""
    default = _DEFAULTS[flag.removeprefix("--").replace("-", "_")]
    return click.option(
        flag,
        type=type,
        default=default,
        show_default=f"{default:g}s" if isinstance(type, Seconds) else default != (),
        help=help_text,
    )


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@setting("--server", "HOST:PORT of any Open Inference Protocol server.")
@setting("--concurrency", "Closed loop: queries in flight, a run for each, e.g. 1,8,64.", CommaList(int))
@setting("--rate", "Open loop: calls a second, a run for each, e.g. 500,1000.", CommaList(float))
@setting("--arrivals", "Open loop: the gaps between queries.", click.Choice(["poisson", "constant"]))
@setting("--min-duration", "Measure at least so long, per model and load.", Seconds())
@setting("--min-query-count", "And at least so many queries.")
@setting("--max-duration", "But never longer: a run that needs more is INVALID.", Seconds())
@setting("--max-query-count", "And never more queries.")
@setting("--warm-up", "Before each block, not measured.", Seconds())
@setting("--blocks", "Parts a run is cut into, to take turns with the other models.")
@setting("--batch-size", "Samples in a query.")
@setting("--deadline", "Of each call.", Seconds())
@setting("--channels", "Connections to the server.")
@setting("--seed", "Decides samples, schedule and order, each on its own.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Send the PNG files of this folder; smaller ones side by side, as many as the model's picture holds.  "
    "[default: random values that fit the model]",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option(
    "--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with pictures."
)
@click.option("--yes-load-remote", is_flag=True, help="Allow a server that is elsewhere. Ask its owner first.")
@credentials_options
def loadtest(
    images: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    yes_load_remote: bool,
    credentials: Credentials,
    **settings: Any,
) -> None:
    """Measure the latency and throughput of one or several MODELs on a server, and compare them.

    \b
    closed loop  so many queries in flight; the next leaves when an answer arrives. Finds the peak throughput.
    open loop    queries leave at planned times, at so many a second, as users' do: whether or not earlier ones were
                 answered. Latency counts from the planned time, so a server that stalls cannot hide it.

    Without --concurrency and --rate, closed loops with 1, 8 and 64 in flight run first, then one open loop for all
    models at half the peak of the slowest. Each run is cut into blocks, and the models' blocks take turns, so that
    whatever drifts hits all alike. The first model named is the one that the others are compared with.

    \b
    Exit code: 0 all is well, 1 a run is INVALID or calls failed, 2 the command was wrong.

    \b
    Examples:
      hangtag loadtest lstm cnn --html report.html        compare two models, with pictures
      hangtag loadtest cnn --concurrency 1,2,4,8,16       where does throughput stop growing?
      hangtag loadtest cnn --rate 500 --min-duration 1m   what do users see at 500 calls/s?
      hangtag loadtest cnn --images examples/garments     send real images
    """
    scenario = _scenario(settings)
    if not (scenario.is_loopback or yes_load_remote):
        raise click.UsageError(
            f"{scenario.server} is not on this machine: a load test can take a service down. "
            "Ask its owner, then add --yes-load-remote."
        )
    stderr = Console(stderr=True)
    target = probe(scenario.server, scenario.models, credentials)
    libraries = [
        samples.load(metadata, scenario.batch_size, scenario.seed, images) for metadata in target.models.values()
    ]
    results = _measure(scenario, target, libraries, credentials, stderr)
    compared = comparison.comparisons(results)
    table.render(results, compared, Console())
    if json_file:
        _write(json_file, json.dumps(document.build(results, compared), indent=1, allow_nan=False), stderr)
    if html_file:
        _write(html_file, html.render(results, compared), stderr)
    if not results.valid:
        sys.exit(1)


def _scenario(settings: dict[str, Any]) -> Scenario:
    try:
        return Scenario(**settings)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _measure(
    scenario: Scenario,
    target: Target,
    libraries: list[samples.SampleLibrary],
    credentials: Credentials,
    stderr: Console,
) -> Results:
    started, start = datetime.now(UTC), time.monotonic()
    requests = {library.model: library.requests for library in libraries}
    with (
        _interrupts() as stop,
        GeneratorProcess(scenario.server, scenario.channels, scenario.deadline, requests, stop, credentials) as process,
        progress.live(stderr) as show,
    ):
        runs = session.run(scenario, process, stop, show)
    return Results(
        scenario=scenario,
        target=target,
        sources={library.model: library.source for library in libraries},
        runs=runs,
        interrupted=stop.is_set(),
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - start,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        environment=environment.describe(),
    )


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or SIGTERM) sets, so that a test ends with a report; a second one ends it at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        restore()


def _write(file: Path, text: str, stderr: Console) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
    stderr.print(f"wrote {file}", highlight=False)
