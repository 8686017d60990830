"""Parses the command lines of `hangtag loadtest` and `hangtag loadtest compare`, and runs the two commands."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from hangtag.options import JsonCommand, json_option, options_of
from hangtag.printable import escaped
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.cli import terminal
from hangtag.serving.loadtest.comparison import gates
from hangtag.serving.loadtest.comparison.compare import SavedComparison, SavedResults, machine_differences
from hangtag.serving.loadtest.measuring.load_test import measure
from hangtag.serving.loadtest.plan.scenario import PRESETS, Method, Scenario, Target, parse_target, target_of
from hangtag.serving.loadtest.record import to_json
from hangtag.serving.loadtest.report import json_document, table, tabular
from hangtag.serving.loadtest.report.json_document import ResultsDocument, read


class SamplesPath(click.Path):
    """A path, or the form folder:PHOTOS, csv:FILE.csv or idx:FOLDER that other commands also accept for samples."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        kind, _, place = str(value).partition(":")
        if kind == "csv" and not place.lower().endswith(".csv"):
            self.fail(f"{value!r}: the file's name must end in .csv", param, ctx)
        return super().convert(place if kind in ("folder", "csv", "idx") else value, param, ctx)


def warn_of_other_machine(saved: SavedResults, environment: Mapping[str, str]) -> None:
    """Print a warning for each difference between the machine of `saved` and the machine of `environment`."""
    for line in machine_differences(saved.environment, environment):
        click.echo(escaped(f"WARNING different machines. {line}"), err=True)


@click.command("compare", cls=JsonCommand)
@click.argument("a", type=terminal.FILE, metavar="A.json")
@click.argument("b", type=terminal.FILE, metavar="B.json")
@click.option("--html", "html_file", type=terminal.FILE, help="Write a page with both tests side by side.")
@json_option("the comparison", terminal.FILE)
def compare(a: Path, b: Path, html_file: Path | None, json_file: Path | None) -> None:
    """Show the figures of B.json as multiples of A.json's, for every target and load in both files.

    The two tests did not run at the same time, so drift of the machine between the tests is part of each ratio. If the
    results are from different machines, the command prints a warning, because the ratios depend on the machines as much
    as on the models.

    \b
    Examples:
      hangtag loadtest cnn --json=before.json      then change something, and measure again
      hangtag loadtest cnn --json=after.json
      hangtag loadtest compare before.json after.json --html comparison.html

    \b
    Exit code: 0 if the results were compared, 1 if a file cannot be used or nothing can be compared.
    """
    terminal.require_all_writable(html_file, json_file)
    before, after = read(a), read(b)
    console = Console(quiet=json_file == terminal.STDOUT)
    warn_of_other_machine(before, after.environment)
    comparison = SavedComparison(before, after)
    if not comparison.pairs:
        raise click.ClickException(f"{a} and {b} have no target and load in common, so there is nothing to compare")
    table.render_comparison(comparison, console)
    renderers = {
        html_file: lambda: _html().render_comparison(comparison),
        json_file: lambda: to_json(SavedComparison, comparison),
    }
    terminal.write({file: render for file, render in renderers.items() if file})


class WithCompare(JsonCommand):
    """A command with MODEL arguments that also has the subcommand `compare`."""

    commands = MappingProxyType({"compare": compare})

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


def _html() -> ModuleType:
    # Imported here, because importing matplotlib would double the startup time of `hangtag loadtest`.
    from hangtag.serving.loadtest.report import html

    return html


# The parameter of each report option -> the function that renders this report.
RENDERERS: Mapping[str, Callable[[ResultsDocument], str]] = {
    "json_file": json_document.render,
    "csv_file": tabular.render_csv,
    "html_file": lambda document: _html().render(document),
    "junit_file": tabular.render_junit,
}


@click.command(cls=WithCompare)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@server_option
@click.option(
    "--target",
    "others",
    multiple=True,
    metavar="NAME=HOST:PORT/MODEL[@VERSION]",
    help="Also measure this model, called NAME in the results. Addresses that begin with http:// are called over "
    "HTTP. Repeatable.",
)
@click.option(
    "--method",
    type=click.Choice(["infer", "classify"]),
    default="infer",
    show_default=True,
    help="infer calls the Open Inference Protocol's ModelInfer; classify calls hangtag's Classify with one image file.",
)
@options_of(Scenario)
@click.option(
    "--samples",
    type=SamplesPath(exists=True, path_type=Path),
    help="The samples to send: a folder of images, a folder with one subfolder per label, a folder of t10k files, an "
    ".npz file, or a CSV file with the columns path and label. The path may begin with folder:, csv: or idx:.  "
    "[default: random values]",
)
@click.option("--images", type=SamplesPath(exists=True, path_type=Path), hidden=True, deprecated="Write --samples.")
@click.option("--accuracy", is_flag=True, help="First send every labelled sample once, and report the accuracy.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with code 1 if this condition holds, such as 'lstm[1].p99 > 5ms'. Repeatable.",
)
@click.option("--baseline", type=terminal.FILE, help="Saved results, which are called 'baseline' in --fail-if.")
@json_option("all results", terminal.FILE)
@click.option("--csv", "csv_file", type=terminal.FILE, help="Write CSV with a line for each run.")
@click.option("--html", "html_file", type=terminal.FILE, help="Write a page with charts.")
@click.option(
    "--junit", "junit_file", type=terminal.FILE, help="Write JUnit XML with a test for each run and each --fail-if."
)
@click.option("--yes-load-remote", is_flag=True, help="Allow a load test of another machine; ask its owner first.")
@credentials_options
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    server: str,
    others: tuple[str, ...],
    method: Method,
    samples: Path | None,
    images: Path | None,
    accuracy: bool,
    conditions: tuple[str, ...],
    baseline: Path | None,
    yes_load_remote: bool,
    credentials: Credentials,
    **settings: Any,
) -> None:
    """Measure the latency and throughput of MODELs on a server, and compare each MODEL with the first one.
    MODEL@VERSION is one version of a model. `hangtag loadtest compare A.json B.json` compares saved results.

    \b
    closed loop  an answer triggers the next query; shows the peak throughput
    open loop    queries are sent at planned times; shows the latency that users see

    Without --concurrency and --rate, the test runs closed loops with 1, 8 and 64 queries in flight, then an open loop
    at half the peak of the slowest target. The targets take turns, so that drift of the machine affects all equally.

    \b
    A condition of --fail-if is TARGET.METRIC or TARGET[64].METRIC, then <, <=, >
    or >=, then a value with its unit, another TARGET.METRIC, or baseline. The
    last two may be multiplied by a number, as in 0.9 * baseline. Metrics:
    throughput samples_per_second p50 p99.9 max errors error_rate accuracy peak

    \b
    Examples:
      hangtag loadtest lstm cnn --html report.html       two models, with charts
      hangtag loadtest cnn@2 cnn@1 --concurrency 1,4,16  two versions
      hangtag loadtest cnn --rate 500 --min-duration 1m  the latency that users see
      hangtag loadtest cnn --scenario server --find-peak --target-latency 10ms
      hangtag loadtest --target a=127.0.0.1:8001/cnn --target b=http://[::1]/cnn
      hangtag loadtest cnn --samples examples/garments --fail-if 'cnn.p99 > 20ms'

    Exit code: 0 if every run is VALID; 1 if a run is INVALID, calls failed, or a --fail-if holds; 2 for a usage error.
    """
    files = {file: render for name, render in RENDERERS.items() if (file := settings.pop(name))}
    preset = PRESETS[settings["scenario"]] if settings["scenario"] else {}
    # The scenario's preset replaces the defaults of options that the user did not set.
    unset = {name: value for name, value in preset.items() if ctx.get_parameter_source(name) == ParameterSource.DEFAULT}
    try:
        targets = [target_of(model, server, method) for model in models]
        targets += [parse_target(text, method) for text in others]
        scenario = Scenario(tuple(targets), **(settings | unset))
        if not yes_load_remote:
            _refuse_remote(targets)
        saved = read(baseline) if baseline is not None else None
        fail_if = [gates.parse(text, scenario, accuracy=accuracy, baseline=saved) for text in conditions]
    except ValueError as error:  # A setting, a target or a condition is out of range, or contradicts another.
        raise click.UsageError(f"{error}.") from error
    terminal.require_all_writable(*files)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with terminal.stop_event() as stop, terminal.live(Console(stderr=True)) as show:
        results = measure(
            scenario, credentials, stop, show, samples=samples or images, accuracy=accuracy, command=command
        )
    outcomes = tuple(gates.judge(gate, results, saved) for gate in fail_if)
    if saved is not None:
        warn_of_other_machine(saved, results.environment)
    document = json_document.of(results, outcomes)
    table.render(document, Console(quiet=files.get(terminal.STDOUT) is json_document.render))
    terminal.write({file: partial(render, document) for file, render in files.items()})
    if not results.valid or any(outcome.failed for outcome in outcomes):
        sys.exit(1)


def _refuse_remote(targets: Sequence[Target]) -> None:
    for remote in targets:
        if not remote.is_loopback:
            raise ValueError(
                f"{remote.address} is not on this machine. A load test can take a service down, so ask the server's "
                "owner, then add --yes-load-remote"
            )
