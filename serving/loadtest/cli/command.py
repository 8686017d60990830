"""``hangtag loadtest``: parse, measure, render."""

import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from hangtag.serving.credentials import Credentials, credentials_options
from hangtag.serving.loadtest.cli import progress
from hangtag.serving.loadtest.cli.calibrate import calibrate_alone
from hangtag.serving.loadtest.cli.compare import compare, warn_of_machines
from hangtag.serving.loadtest.cli.parameter_types import CommaList, Seconds, output, setting
from hangtag.serving.loadtest.comparison import compare as comparison
from hangtag.serving.loadtest.comparison import gates
from hangtag.serving.loadtest.measuring import load_test as whole
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan import target as targets
from hangtag.serving.loadtest.plan.scenario import PRESETS, Scenario
from hangtag.serving.loadtest.report import csv, html, junit, prometheus, table
from hangtag.serving.loadtest.report import json_writer as writing
from hangtag.serving.loadtest.report.json_reader import SavedResults, read


class WithCompare(click.Command):
    """A command that takes models, and whose first word may be `compare` instead."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == [compare.name]:
            return compare.make_context(f"{info_name} {compare.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=WithCompare)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--server", default=targets.DEFAULT_SERVER, show_default=True, help="HOST:PORT of the server that has the MODELs."
)
@click.option(
    "--target",
    "others",
    multiple=True,
    metavar="NAME=HOST:PORT/MODEL",
    help="Measure this model on this server too, under this name. May be given several times.",
)
@click.option(
    "--method",
    type=click.Choice(["infer", "classify"]),
    default="infer",
    show_default=True,
    help="infer: ModelInfer, of the Open Inference Protocol. classify: hangtag's Classify, an image file a call.",
)
@setting("--scenario", "One of MLPerf LoadGen's: sets the options below, see above.", click.Choice(list(PRESETS)))
@setting("--concurrency", "Closed loop: queries in flight, a run for each, e.g. 1,8,64.", CommaList(int))
@setting("--rate", "Open loop: calls a second, a run for each, e.g. 500,1000.", CommaList(float))
@setting("--arrivals", "Open loop: the gaps between queries.", click.Choice(["poisson", "constant"]))
@setting("--find-peak", "Open loop: search the highest rate that keeps --target-latency.", is_flag=True)
@setting("--target-latency", "The bound that --percentile should keep, e.g. 10ms.", Seconds())
@setting("--percentile", "What a run is judged by.")
@setting("--min-duration", "Measure at least so long, per target and load.", Seconds())
@setting("--min-query-count", "And at least so many queries, or what --percentile takes.")
@setting("--max-duration", "But never longer: a run that needs more is INVALID.", Seconds())
@setting("--max-query-count", "And never more queries.")
@setting("--warm-up", "Before each block, not measured.", Seconds())
@setting("--blocks", "Parts a run is cut into, to take turns with the other targets.")
@setting("--batch-size", "Samples in a query.")
@setting("--deadline", "Of each call.", Seconds())
@setting("--channels", "CallSettings that each process opens to a server.")
@setting("--processes", "Processes that send.  [default: one for every four CPUs]", click.IntRange(min=1))
@setting("--seed", "Decides samples, schedule and order, each on its own.")
@click.option(
    "--samples",
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Send what is in this folder (Fashion-MNIST's t10k files, or else its images) or .npz file (an array for each "
    "input, and perhaps 'labels').  [default: random values that fit the model]",
)
@click.option("--accuracy", is_flag=True, help="First send every labelled sample once, and report the accuracy.")
@click.option("--check-caching", is_flag=True, help="First compare one sample over and over with new ones.")
@click.option("--calibrate", is_flag=True, help="Also measure the generator's own ceiling; alone without a MODEL.")
@click.option("--public-api", is_flag=True, help="Make calls with grpcio's public API only, which is slower.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 where this holds, e.g. 'lstm.p99 > 5ms'. May be given several times.",
)
@click.option("--baseline", type=click.Path(dir_okay=False, path_type=Path), help="Saved results, for --fail-if.")
@output("--json", "json_file", "Write everything as JSON.")
@output("--csv", "csv_file", "Write a line for each run.")
@output("--html", "html_file", "Write a page with pictures.")
@output("--junit", "junit_file", "Write JUnit XML: a test for each run and each --fail-if.")
@output("--prometheus", "prometheus_file", "Write a file for Prometheus' textfile collector.")
@click.option("--yes-load-remote", is_flag=True, help="Allow a server that is elsewhere. Ask its owner first.")
@credentials_options
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    server: str,
    others: tuple[str, ...],
    method: targets.Method,
    samples: Path | None,
    accuracy: bool,
    check_caching: bool,
    calibrate: bool,
    public_api: bool,
    conditions: tuple[str, ...],
    baseline: Path | None,
    yes_load_remote: bool,
    credentials: Credentials,
    **settings: Any,
) -> None:
    """Measure the latency and throughput of one or several MODELs on a server, and compare them.
    `hangtag loadtest compare A.json B.json` compares saved runs.

    \b
    closed loop  so many queries in flight; the next leaves when an answer arrives. Finds the peak throughput.
    open loop    queries leave at planned times, at so many a second, as users' do: whether or not earlier ones were
                 answered. Latency counts from the planned time, so a server that stalls cannot hide it.

    Without --concurrency and --rate, closed loops with 1, 8 and 64 in flight run first, then one open loop for all
    targets at half the peak of the slowest. Each run is cut into blocks, and the targets' blocks take turns, so that
    whatever drifts hits all alike. The first one named is the one that the others are compared with.

    \b
    Scenarios (MLPerf LoadGen's):
      single-stream  one query of one sample in flight; judged by p90
      multi-stream   one query of eight samples in flight; judged by p99
      server         Poisson arrivals at --rate, or --find-peak with --target-latency
      offline        large batches, as many as keep the server busy; judged by samples a second

    \b
    Conditions of --fail-if: TARGET.METRIC, or TARGET[64].METRIC for one load; then <, <=, > or >=; then a value with
    its unit, another TARGET.METRIC, or baseline (the same figure in --baseline), with a factor before it if you like.
    Metrics: throughput samples_per_second p50 p90 p95 p99 p99.9 max errors error_rate accuracy peak

    \b
    Exit code: 0 all is well, 1 a run is INVALID, calls failed or a --fail-if holds, 2 the command was wrong.

    \b
    Examples:
      hangtag loadtest lstm cnn --html report.html        compare two models, with pictures
      hangtag loadtest cnn --concurrency 1,2,4,8,16       where does throughput stop growing?
      hangtag loadtest cnn --rate 500 --min-duration 1m   what do users see at 500 calls/s?
      hangtag loadtest cnn --scenario server --find-peak --target-latency 10ms
      hangtag loadtest --target a=127.0.0.1:8001/cnn --target b=127.0.0.1:9001/cnn
      hangtag loadtest lstm cnn --samples examples/garments --fail-if 'cnn.p99 > 20ms'
    """
    files = {name: settings.pop(name) for name in list(settings) if name.endswith("_file")}
    stderr = Console(stderr=True)
    if calibrate and not (models or others):
        calibrate_alone(_scenario(ctx, settings, (targets.Target("null", "null"),)), stderr)
        return
    scenario = _scenario(ctx, settings, _targets(models, server, others, method))
    if not (scenario.is_loopback or yes_load_remote):
        away = next(target.address for target in scenario.targets if not target.is_loopback)
        raise click.UsageError(
            f"{away} is not on this machine: a load test can take a service down. "
            "Ask its owner, then add --yes-load-remote."
        )
    saved = read(baseline) if baseline is not None else None
    fail_if = _gates(conditions, scenario, saved)
    extras = whole.Extras(samples, accuracy, check_caching, calibrate, public_api)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with _interrupts() as stop, progress.live(stderr) as show:
        results = whole.measure(scenario, extras, credentials, stop, show, command)
    outcomes = tuple(gates.judge(gate, results, saved) for gate in fail_if)
    if saved is not None:
        warn_of_machines(saved, results.environment, stderr)
    _write_all(results, outcomes, files, stderr)
    if not results.valid or any(outcome.failed for outcome in outcomes):
        sys.exit(1)


def _targets(
    models: tuple[str, ...], server: str, others: tuple[str, ...], method: targets.Method
) -> tuple[targets.Target, ...]:
    try:
        found = [targets.Target(model, model, server, method) for model in models]
        found += [targets.parse(text, method) for text in others]
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    if not found:
        raise click.UsageError("Name at least one MODEL or --target.")
    return tuple(found)


def _scenario(ctx: click.Context, settings: dict[str, Any], measured: tuple[targets.Target, ...]) -> Scenario:
    """The settings, with those that the scenario fixes where the command does not say otherwise."""
    preset = PRESETS[settings["scenario"]] if settings["scenario"] else {}
    unsaid = {
        name: value for name, value in preset.items() if ctx.get_parameter_source(name) == ParameterSource.DEFAULT
    }
    try:
        return Scenario(measured, **(settings | unsaid))
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _gates(conditions: tuple[str, ...], scenario: Scenario, baseline: SavedResults | None) -> tuple[gates.Gate, ...]:
    try:
        return tuple(gates.parse(text, scenario.names, baseline is not None) for text in conditions)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _write_all(
    results: Results, outcomes: Sequence[gates.Outcome], files: dict[str, Path | None], stderr: Console
) -> None:
    compared = comparison.comparisons(results)
    table.render(results, compared, Console(), outcomes)
    renderers: dict[str, Callable[[], str]] = {
        "json_file": lambda: json.dumps(writing.build(results, compared, outcomes), indent=1, allow_nan=False),
        "csv_file": lambda: csv.render(results),
        "html_file": lambda: html.render(results, compared, outcomes),
        "junit_file": lambda: junit.render(results, outcomes),
        "prometheus_file": lambda: prometheus.render(results, outcomes),
    }
    for name, render in renderers.items():
        file = files[name]
        if file is not None:
            _write(file, render(), stderr)


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
