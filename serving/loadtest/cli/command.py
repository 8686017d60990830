"""`hangtag loadtest`: parse, measure, render."""

import shlex
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from rich.console import Console

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.cli import progress, report_files
from hangtag.serving.loadtest.cli.calibrate import calibrate_alone
from hangtag.serving.loadtest.cli.compare import compare, warn_of_other_machine
from hangtag.serving.loadtest.cli.interrupts import stop_event
from hangtag.serving.loadtest.cli.parameter_types import SamplesPath
from hangtag.serving.loadtest.cli.scenario_options import scenario_from, scenario_options
from hangtag.serving.loadtest.comparison import gates
from hangtag.serving.loadtest.comparison.compare import compare_targets
from hangtag.serving.loadtest.comparison.gate_outcomes import judge
from hangtag.serving.loadtest.comparison.gate_requirements import require_judgeable
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.load_test import Extras, measure
from hangtag.serving.loadtest.plan import target
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.report import table
from hangtag.serving.loadtest.report.json_reader import read
from hangtag.serving.options import credentials_options, server_option


class WithCompare(click.Command):
    """A command with MODEL arguments, whose first argument may be the subcommand `compare` instead."""

    commands = MappingProxyType({"compare": compare})

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=WithCompare)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@server_option
@click.option(
    "--target",
    "others",
    multiple=True,
    metavar="NAME=HOST:PORT/MODEL[@VERSION]",
    help="Measure this model on this server too, under this name; NAME=http://HOST:PORT/MODEL measures it over HTTP. "
    "May be given several times.",
)
@click.option(
    "--method",
    type=click.Choice(["infer", "classify"]),
    default="infer",
    show_default=True,
    help="infer: ModelInfer, of the Open Inference Protocol, over HTTP with binary tensors. classify: hangtag's "
    "Classify, an image file a call.",
)
@scenario_options
@click.option(
    "--samples",
    "--images",
    type=SamplesPath(exists=True, path_type=Path),
    help="Send the samples in this folder (a folder of images for each label, or images alone, or Fashion-MNIST's t10k "
    "files) or .npz file (an array for each input, and perhaps 'labels').  [default: random values that fit the model]",
)
@click.option("--accuracy", is_flag=True, help="First send every labelled sample once, and report the accuracy.")
@click.option("--check-caching", is_flag=True, help="First compare one repeated sample with new ones.")
@click.option("--calibrate", is_flag=True, help="Also measure the generator's own ceiling; alone without a MODEL.")
@click.option("--public-api", is_flag=True, help="Make calls with grpcio's public API only, which is slower.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 where this holds, e.g. 'lstm[1].p99 > 5ms'. May be given several times.",
)
@click.option("--baseline", type=click.Path(dir_okay=False, path_type=Path), help="Saved results, for --fail-if.")
@report_files.report_file_options
@click.option("--yes-load-remote", is_flag=True, help="Allow a server on another machine. Ask its owner first.")
@credentials_options
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    server: str,
    others: tuple[str, ...],
    method: target.Method,
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
    `hangtag loadtest compare A.json B.json` compares saved runs. MODEL@VERSION measures one version of a model.

    \b
    closed loop  a fixed number of queries in flight; an answer triggers the next query. Finds the peak throughput.
    open loop    queries leave at planned times, at a fixed rate, as those of independent users: whether or not earlier
                 ones were answered. Latency counts from the planned time, so a server that stalls cannot hide it.

    Without --concurrency and --rate, closed loops with 1, 8 and 64 in flight run first, then one open loop for all
    targets at half the peak of the slowest. Each run is cut into blocks, and the targets' blocks are interleaved, so
    that drift of the machine affects all alike. The others are compared with the first one named.

    \b
    Scenarios (MLPerf LoadGen's):
      single-stream  one query of one sample in flight; judged by p90
      multi-stream   one query of eight samples in flight; judged by p99
      server         Poisson arrivals at --rate, or --find-peak with --target-latency
      offline        large batches, enough to keep the server busy; judged by samples a second

    \b
    Conditions of --fail-if: TARGET.METRIC, or TARGET[64].METRIC for one load; then <, <=, > or >=; then a value with
    its unit, another TARGET.METRIC, or baseline (the same figure in --baseline), with a factor before it if you like.
    Metrics: throughput samples_per_second p50 p90 p95 p99 p99.9 max errors error_rate accuracy peak

    \b
    Exit code: 0 every run is VALID, 1 a run is INVALID, calls failed or a --fail-if holds, 2 the command was wrong.

    \b
    Examples:
      hangtag loadtest lstm cnn --html report.html        compare two models, with pictures
      hangtag loadtest cnn@2 cnn@1                        compare two versions that a server serves
      hangtag loadtest cnn --concurrency 1,2,4,8,16       where does throughput stop growing?
      hangtag loadtest cnn --rate 500 --min-duration 1m   what do users see at 500 calls/s?
      hangtag loadtest cnn --scenario server --find-peak --target-latency 10ms
      hangtag loadtest --target a=127.0.0.1:8001/cnn --target b=127.0.0.1:9001/cnn
      hangtag loadtest --target grpc=127.0.0.1:8001/cnn --target rest=http://127.0.0.1:8000/cnn
      hangtag loadtest lstm cnn --samples examples/garments --fail-if 'cnn[1].p99 > 20ms'
    """
    files = {name: settings.pop(name) for name in list(settings) if name.endswith("_file")}
    stderr = Console(stderr=True)
    if calibrate and not (models or others):
        calibrate_alone(scenario_from(ctx, settings, (Target("null", "null"),)), stderr)
        return
    scenario = scenario_from(ctx, settings, _targets(models, server, others, method))
    if not yes_load_remote:
        _refuse_remote(scenario)
    saved = read(baseline) if baseline is not None else None
    fail_if = _gates(conditions, scenario, accuracy, saved)
    report_files.require_all_writable(files)
    extras = Extras(samples, accuracy, check_caching, calibrate, public_api)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with stop_event() as stop, progress.live(stderr) as show:
        results = measure(scenario, extras, credentials, stop, show, command)
    outcomes = tuple(judge(gate, results, saved) for gate in fail_if)
    if saved is not None:
        warn_of_other_machine(saved, results.environment, stderr)
    comparisons = compare_targets(results)
    table.render(results, comparisons, Console(), outcomes)
    report_files.write(files, results, comparisons, outcomes)
    if not results.valid or any(outcome.failed for outcome in outcomes):
        sys.exit(1)


def _targets(
    models: tuple[str, ...], server: str, others: tuple[str, ...], method: target.Method
) -> tuple[Target, ...]:
    try:
        targets = [target.of_model(model, server, method) for model in models]
        targets += [target.parse(text, method) for text in others]
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    if not targets:
        raise click.UsageError("Name at least one MODEL or --target.")
    return tuple(targets)


def _refuse_remote(scenario: Scenario) -> None:
    for remote in scenario.targets:
        if not remote.is_loopback:
            raise click.UsageError(
                f"{remote.address} is not on this machine: a load test can take a service down. "
                "Ask its owner, then add --yes-load-remote."
            )


def _gates(
    conditions: tuple[str, ...], scenario: Scenario, accuracy: bool, baseline: SavedResults | None
) -> tuple[gates.Gate, ...]:
    try:
        parsed = tuple(gates.parse(text, scenario.names, baseline is not None) for text in conditions)
        for gate in parsed:
            require_judgeable(gate, scenario, accuracy=accuracy, baseline=baseline)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    return parsed
