"""``hangtag choose`` finds the best model or cascade of a repository, and says why to serve it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hangtag.choose import report
from hangtag.choose.choice import LOSE, Wanted
from hangtag.choose.choice import choose as run_choice
from hangtag.choose.measuring import measure
from hangtag.choose.trial import load_test
from hangtag.commands.route import highlighted, route_to_write, say, write_route
from hangtag.extras import MissingExtraError, needs
from hangtag.options import FiniteRange, data_dir_option, limit_option, models_option, options_of
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.serving.loadtest.cli.terminal import live, stop_event
from hangtag.settings import setting
from hangtag.tables import table

_SHOWN = 12
"""The number of rows in the printed table. The HTML page lists all candidates."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    accuracy_at_least: float | None = setting(
        None,
        "The lowest acceptable accuracy in percent.  [default: 0.1 below the most accurate model's accuracy]",
        between=(0, 100),
    )
    p99: float | None = setting(
        None, "The limit for the 99th percentile of the latency, such as 20ms.", duration=True, metavar="DURATION"
    )
    rate: float | None = setting(
        None,
        "The calls per second at which to meet the limit --p99.  [default: a closed loop with 64 calls in flight]",
        kind=FiniteRange(min=0, min_open=True),
    )
    data: str | None = setting(
        None,
        "Labelled pictures on which no model was trained.  [default: the validation images of the models' data set]",
        metavar="FILE.npz|folder:PICTURES|csv:FILE",
    )
    tries: int = setting(
        3,
        "How many of the best candidates to load-test. With 0, the choice rests on predictions.",
        flag="--try",
        between=(0, 20),
    )
    seconds: float = setting(
        3.0,
        "The minimum duration of the load test, for each candidate and load.",
        kind=FiniteRange(min=0, min_open=True),
    )
    write: str | None = setting(None, "If the choice is a cascade, write it as route NAME.", metavar="NAME")
    replace: bool = setting(False, "Replace an existing route.")
    page: Path = setting(
        Path("reports/choose.html"), "The page, with a chart of accuracy against cost.", flag="--report"
    )


@click.command()
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@options_of(_Options)
@limit_option
@data_dir_option
@models_option("The model repository with the models.")
def choose(names: tuple[str, ...], limit: int | None, data_dir: Path | None, models: Path, **given: Any) -> None:
    """Say which model, or which cascade of models, to serve on this machine.

    The command runs every MODEL (by default every model of the repository that classifies the same kind of pictures) on
    labelled pictures on which the model was not trained. From the answers and times on this machine, the command
    computes accuracy and cost of each model and of each cascade of two or three models. Then the command serves and
    load-tests the best few. The test images of a data set are never used. Without --accuracy-at-least, at most
    0.1 % of the pictures may be misclassified by a cascade but classified correctly by its last model. At least 2,995
    pictures are needed to show that a cascade meets this limit.

    If no candidate meets the requirements, the command shows the nearest candidate, writes no route, and exits with 1.

    \b
    Examples:
      hangtag choose                                       the fastest within 0.1 points of the best accuracy
      hangtag choose --accuracy-at-least 95 --p99 20ms --rate 400
      hangtag choose cnn-int8 lstm-int8 --write both       two models, and the route that serves both
      hangtag choose small large --data folder:kept        with pictures of your own
      hangtag choose --try 0                               a prediction, without the load test
    """
    options = _Options(**given)
    file = None if options.write is None else route_to_write(models, options.write, "--write", replace=options.replace)
    require_writable(options.page)
    measured = measure(models, names, options.data, "--data", limit=limit, data_dir=data_dir, on_step=say)
    most_accurate = max(float(model.right.mean()) for model in measured.models)
    wanted = Wanted(most_accurate - LOSE, options.p99, options.rate, LOSE)
    if options.accuracy_at_least is not None:
        wanted = Wanted(options.accuracy_at_least / 100, options.p99, options.rate)
    with stop_event() as stop, live(Console(stderr=True)) as show:
        test = partial(load_test, repository=models, images=measured.images, on_progress=show, stop=stop)
        listed = run_choice(measured.models, wanted, test, tries=options.tries, seconds=options.seconds, on_step=say)
    console, is_met = Console(), not wanted.missed_by(listed[0])
    rows = [highlighted(report.cells(one, wanted), is_met and one is listed[0]) for one in listed[:_SHOWN]]
    console.print(table(report.HEADERS, rows, right=report.HEADERS[1:]))
    for sentence in report.sentences(listed, wanted, measured):
        console.print(escaped(sentence), highlight=False, markup=False, soft_wrap=True)
    try:
        with needs("export", "the page"):
            page = report.page(listed, wanted, measured)
    except MissingExtraError as error:
        say(f"no page: {error}")
    else:
        write_text(str(options.page), page)
    if not is_met:
        raise SystemExit(1)
    if file is not None and listed[0].is_cascade:
        write_route(file, listed[0], measured)
    elif file is not None:
        name = listed[0].name
        say(f"no route was written, because {name} is a model: call {name} by its name.")
