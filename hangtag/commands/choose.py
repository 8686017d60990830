"""``hangtag choose`` finds the best model or cascade, and ``hangtag route`` chooses the threshold of a cascade."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hangtag.choose import report
from hangtag.choose.candidates import LOSE, Candidate, Wanted, best, curve
from hangtag.choose.candidates import choose as run_choice
from hangtag.choose.measuring import Measured, measure
from hangtag.choose.trial import load_test
from hangtag.commands.models_view import followers
from hangtag.evaluation.subject import EvaluationError
from hangtag.options import FiniteRange, SampleOptions, models_option, options_of
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.serving.loadtest.cli.terminal import live, stop_event
from hangtag.serving.model_repository import ROUTE_FILE, is_model_name, numbered_versions
from hangtag.settings import setting
from hangtag.tables import table

_SHOWN_THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""The thresholds that the table of `hangtag route tune` shows, in addition to the chosen threshold."""


@dataclass(frozen=True, kw_only=True)
class _Options(SampleOptions):
    accuracy_at_least: float | None = setting(
        None,
        "The lowest acceptable accuracy in percent.  [default: 0.1 percentage points below the most accurate model]",
        between=(0, 100),
    )
    p99: float | None = setting(None, "The limit for the 99th percentile of the latency, such as 20ms.", duration=True)
    rate: float | None = setting(
        None,
        "The calls per second at which the limit --p99 must hold.  [default: a closed loop with 64 calls in flight]",
        kind=FiniteRange(min=0, min_open=True),
    )
    samples: str | None = setting(
        None,
        "Labelled pictures on which no model was trained.  [default: the validation images of the models' data set]",
        flag="--data",
        metavar="FILE.npz|folder:PICTURES|csv:FILE",
    )
    tries: int = setting(
        3,
        "How many of the best candidates to load-test. With 0, hangtag tests none, and chooses by its predictions.",
        flag="--try",
        between=(0, 20),
    )
    seconds: float = setting(
        3.0,
        "The minimum duration of the load test, for each candidate and load.",
        kind=FiniteRange(min=0, min_open=True),
    )
    write: str | None = setting(None, "If a cascade is chosen, save it as a route with this name.", metavar="NAME")
    replace: bool = setting(False, "Replace an existing route.")
    picture: Path = setting(Path("reports/choose.png"), "Draw the accuracy against the cost in this PNG file.")


@click.command()
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@options_of(_Options)
@models_option("The model repository to choose from.")
def choose(names: tuple[str, ...], models: Path, **given: Any) -> None:
    """Say which model, or which cascade of models, to serve on this machine.

    The command runs each MODEL on labelled pictures on which no model was trained. By default, it runs the largest
    group of models in the repository that have the same inputs, outputs and labels. From the answers and times on this
    machine, the command computes the accuracy and the cost of each model and of each cascade of two or three models.
    Then it serves and load-tests the best few. The test images of a data set are never used. Without
    --accuracy-at-least, at most 0.1 % of the pictures may be misclassified by a cascade but classified correctly by its
    last model. At least 2,995 pictures are needed to show that a cascade meets this limit.

    If no candidate meets the requirements, the command shows the nearest candidate, writes no route, and exits with 1.

    \b
    Examples:
      hangtag choose                                       the fastest within 0.1 points of the best accuracy
      hangtag choose --accuracy-at-least 95 --p99 20ms --rate 400
      hangtag choose cnn-int8 lstm-int8 --write both       two models, and the route that serves both
      hangtag choose small large --data folder:kept        with pictures of your own
      hangtag choose --try 0                               without the load test
    """
    options = _Options(**given)
    file = None if options.write is None else _route_to_write(models, options.write, "--write", replace=options.replace)
    require_writable(options.picture)
    measured = measure(models, names, options, "--data", _say)
    most_accurate = max(float(model.right.mean()) for model in measured.models)
    wanted = Wanted(most_accurate - LOSE, options.p99, options.rate, LOSE)
    if options.accuracy_at_least is not None:
        wanted = Wanted(options.accuracy_at_least / 100, options.p99, options.rate)

    def test(chosen: Sequence[Candidate]) -> list[Candidate]:
        _say(f"Load-testing {', '.join(one.name for one in chosen)}.")
        with stop_event() as stop, live(Console(stderr=True)) as show:
            return load_test(chosen, wanted.rate, options.seconds, models, measured.images, show, stop)

    listed = run_choice(measured.models, wanted, test, options.tries)
    is_met = not wanted.missed_by(listed[0])
    _print(listed, listed[0] if is_met else None, wanted)
    for sentence in report.sentences(listed, wanted, measured):
        click.echo(escaped(sentence))
    report.draw(listed, options.picture)
    if not is_met:
        raise SystemExit(1)
    if file is not None and listed[0].is_cascade:
        _write_route(file, listed[0], measured)
    elif file is not None:
        name = listed[0].name
        _say(f"no route was written, because {name} is a model: call {name} by its name.")


@click.group()
def route() -> None:
    """Choose a cascade's threshold, and write the route. docs/reference/routes.md explains routes."""


@route.command()
@click.argument("names", metavar="FAST [MORE]... ACCURATE", nargs=-1, required=True)
@click.option(
    "--lose-at-most",
    type=FiniteRange(min=0, max=100),
    default=0.1,
    show_default=True,
    help="The largest allowed percentage of images that the cascade misclassifies and ACCURATE classifies correctly. "
    "This limit must hold with 95 % confidence on the validation images. If there are too few images to show "
    "this, the cascade must not misclassify any image that ACCURATE classifies correctly.",
)
@click.option("--name", default="fast-and-accurate", show_default=True, help="The route's name in the repository.")
@click.option("--replace", is_flag=True, help="Replace an existing route.")
@click.option("--dry-run", is_flag=True, help="Print the curve and the choice, but write nothing.")
@options_of(SampleOptions)
@click.option("--reports", hidden=True, expose_value=False, deprecated="It has no effect.")
@models_option("The model repository, to which the route is written.")
def tune(
    names: Sequence[str], lose_at_most: float, name: str, replace: bool, dry_run: bool, models: Path, **given: Any
) -> None:
    """Choose the lowest probability at which FAST's answer is accepted. Other samples are passed to the next model.

    The models classify the validation images of FAST's data set, or the pictures of --samples. Pictures on which a
    model was trained or tested are refused. The lowest threshold within --lose-at-most is written to
    <models>/NAME/route.toml, with a description of the choice. All models except for the last have this threshold. If
    the cascade takes as long as ACCURATE alone, nothing is written. A model may be given as NAME@VERSION. To serve
    versions other than the newest, use 'hangtag serve --num-versions'. 'hangtag choose' also chooses the models of the
    cascade, and load-tests it.

    \b
    Examples:
      hangtag route tune lstm cnn                           at most 0.1 % are wrong although cnn is right
      hangtag route tune lstm cnn --lose-at-most 1 --dry-run
      hangtag route tune lstm lstm2 cnn --name three        three models
      hangtag route tune lstm cnn@1 --name older            a version that is not served
      hangtag route tune small large --samples folder:kept  with your own pictures, on which no model was trained
      hangtag evaluate fast-and-accurate --server 127.0.0.1:8001
    """
    if len(names) < 2:
        raise click.UsageError("a cascade needs at least two models, the fastest first.")
    file = _route_to_write(models, name, "--name", replace=replace or dry_run)
    measured = measure(models, names, SampleOptions(**given), "--samples", _say)
    tried = curve(measured.models)
    chosen = best(tried, 0.0, lose_at_most / 100)
    shown = [one for one in tried if one is chosen or one.threshold in _SHOWN_THRESHOLDS]
    _print(shown, chosen, Wanted(0.0), report.RESULTS)
    last = measured.models[-1]
    if chosen is None or chosen.cost >= last.per_sample:
        raise EvaluationError(
            f"no threshold within --lose-at-most makes the cascade faster than {last.name} alone, so no route was "
            f"written. Serve only {last.name}. Or, if the table has a threshold at which the cascade takes less than "
            f"{last.per_sample * 1e6:,.0f} µs (the time of {last.name}), raise --lose-at-most."
        )
    click.echo(
        f"Chosen: {chosen.threshold:g}. Of {report.result(chosen, measured)}. On average, the cascade takes "
        f"{chosen.cost / last.per_sample:.2f} times as long for an image as {last.name} alone."
    )
    if not chosen.reached[1]:
        click.echo(f"You need no cascade, because {names[0]} alone is within --lose-at-most.")
    if not dry_run:
        _write_route(file, chosen, measured)


def _route_to_write(models: Path, name: str, option: str, *, replace: bool) -> Path:
    """Return the path of a route's file, after checking that it may be written. Error messages name ``option``."""
    if not is_model_name(name):
        raise click.BadParameter(f"{name!r} cannot be a route's name.", param_hint=option)
    if numbered_versions(models / name):
        raise EvaluationError(f"{models / name} is a model. Give the route another name with {option}.")
    file = models / name / ROUTE_FILE
    if file.exists() and not replace:
        raise EvaluationError(f"{file} already exists. Give another name with {option}, or replace it with --replace.")
    return file


def _say(text: str) -> None:
    click.echo(escaped(text), err=True)


def _print(shown: Sequence[Candidate], chosen: Candidate | None, wanted: Wanted, columns: int | None = None) -> None:
    """Print the first columns of the candidates' table, in which the row of the chosen candidate is green."""
    rows = [
        [Text(escaped(cell), "bold green" if one is chosen else "") for cell in report.cells(one, wanted)[:columns]]
        for one in shown
    ]
    Console().print(table(report.HEADERS[:columns], rows, right=report.HEADERS[1:]))


def _write_route(file: Path, cascade: Candidate, measured: Measured) -> None:
    """Write a cascade's route.toml with this command and its result, and report when servers apply the route."""
    command, today = shlex.join(["hangtag", *sys.argv[1:]]), datetime.now(UTC)
    description = f"Chosen by '{command}' on {today:%Y-%m-%d}: of {report.result(cascade, measured)}."
    write_text(str(file), cascade.route(description))
    click.echo(followers(file.parent.name), err=True)
