"""``hangtag route``: choose a cascade's threshold from data, and write its route.toml."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from hangtag.commands.models_view import followers
from hangtag.evaluation import samples
from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.file_subject import FileSubject
from hangtag.evaluation.samples import Samples
from hangtag.evaluation.subject import BATCH_SIZE, Outputs, require_labels
from hangtag.evaluation.threshold import Curve, Point, curve
from hangtag.options import FiniteRange, models_option
from hangtag.output import write_text
from hangtag.serving.model_repository import (
    ROUTE_FILE,
    ModelFile,
    ModelRepositoryError,
    is_model_name,
    require_versions,
)
from hangtag.training.data.fashion_mnist import Split

OUTPUT = "probabilities"
_SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_TIMED_BATCHES = 5


@click.group()
def route() -> None:
    """Choose how a cascade of models answers. docs/routes.md says what routes are."""


@route.command()
@click.argument("fast", metavar="FAST")
@click.argument("accurate", metavar="ACCURATE")
@click.option(
    "--lose-at-most",
    type=FiniteRange(min=0, max=100),
    default=0.1,
    show_default=True,
    help="Points of accuracy that the cascade may lose against ACCURATE alone, on the validation images.",
)
@click.option("--name", default="fast-and-accurate", show_default=True, help="The route's name in the repository.")
@click.option("--replace", is_flag=True, help="Replace a route of this name.")
@click.option("--dry-run", is_flag=True, help="Print the curve and the choice, and write nothing.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images, for quick trials.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@models_option("The model repository that has both models, and gets the route.")
def tune(
    fast: str,
    accurate: str,
    lose_at_most: float,
    name: str,
    replace: bool,
    dry_run: bool,
    limit: int | None,
    data_dir: Path | None,
    models: Path,
) -> None:
    """Choose from which probability on FAST's answer is taken, and what goes on to ACCURATE.

    Both models answer the validation images, which neither was trained on; the test images are not looked at. The
    lowest threshold that loses at most --lose-at-most points of ACCURATE's accuracy is written to
    <models>/NAME/route.toml, with where it came from. The command says when a running server follows it.

    \b
    Examples:
      hangtag route tune lstm cnn                           at most 0.1 points less than cnn
      hangtag route tune lstm cnn --lose-at-most 1 --dry-run
      hangtag evaluate fast-and-accurate --server 127.0.0.1:8001
    """
    if not is_model_name(name):
        raise click.BadParameter(f"{name!r} cannot be a route's name.", param_hint="--name")
    if fast == accurate:
        raise click.UsageError("FAST and ACCURATE are the same model.")
    file = models / name / ROUTE_FILE
    if file.exists() and not (replace or dry_run):
        raise EvaluationError(f"{file} is there already. Name another route with --name, or replace it with --replace.")
    answers, microseconds, data = [], [], None
    files = [_serving_file(models, model) for model in (fast, accurate)]
    for model, model_file in zip((fast, accurate), files, strict=True):
        with FileSubject(model_file.path) as subject:
            if subject.task != "single_label":
                raise EvaluationError(f"{model} predicts sets of labels; a cascade goes by the most probable label.")
            data = data or samples.load(subject, "validation", limit, data_dir, None)
            require_labels(subject, data.labels)
            answers.append(_probabilities(model, subject.answer(data.images, lambda _count: None)))
            microseconds.append(_microseconds(subject, data))
    assert data is not None
    assert isinstance(data.content, Split)
    tried = curve(answers[0], answers[1], data.content.classes)
    chosen = tried.cheapest(lose_at_most / 100)
    _print(tried, chosen, (fast, accurate), microseconds, len(data))
    if dry_run:
        return
    write_text(str(file), _document(files, chosen, tried, lose_at_most, len(data)))
    click.echo(followers(name), err=True)


def _serving_file(models: Path, model: str) -> ModelFile:
    try:
        return require_versions(models, model)[0]
    except ModelRepositoryError as error:
        raise EvaluationError(str(error)) from error


def _probabilities(model: str, outputs: Outputs) -> npt.NDArray[np.floating]:
    if OUTPUT not in outputs:
        raise EvaluationError(f"{model} has no output {OUTPUT!r}; it has {', '.join(outputs)}.")
    return outputs[OUTPUT]


def _microseconds(subject: FileSubject, data: Samples) -> float:
    """What an image costs in a full batch, on all CPUs: the shortest of a few."""
    images = data.images[:BATCH_SIZE]
    seconds = []
    for _ in range(_TIMED_BATCHES):
        started = time.perf_counter()
        subject.answer(images, lambda _count: None)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(images) * 1e6


def _print(tried: Curve, chosen: Point, names: Sequence[str], microseconds: Sequence[float], count: int) -> None:
    fast, accurate = names
    table = Table(box=None, header_style="dim", pad_edge=False)
    for header in ("at least", f"sent on to {accurate}", "accuracy", f"against {accurate}", "cost of an image"):
        table.add_column(header, justify="right")
    thresholds = sorted({*_SHOWN, chosen.threshold})
    for point in [point for point in tried.points if point.threshold in thresholds]:
        cost = microseconds[0] + point.sent_on * microseconds[1]
        table.add_row(
            f"{point.threshold:g}",
            f"{point.sent_on:.1%}",
            f"{point.accuracy:.2%}",
            f"{100 * (point.accuracy - tried.second):+.2f} points",
            f"{cost / microseconds[1]:.2f} of {accurate}'s",
            style="bold green" if point is chosen else None,
        )
    console = Console()
    console.print(f"{count:,} validation images; alone {fast} has {tried.first:.2%}, {accurate} {tried.second:.2%}")
    console.print(table)
    cost = (microseconds[0] + chosen.sent_on * microseconds[1]) / microseconds[1]
    console.print(
        f"Chosen: {chosen.threshold:g}. To expect: {chosen.sent_on:.1%} of such images go on to {accurate}, and an "
        f"image costs {cost:.2f} of what {accurate} alone takes."
    )


def _document(files: Sequence[ModelFile], chosen: Point, tried: Curve, lose_at_most: float, count: int) -> str:
    fast, accurate = files
    description = (
        f"Chosen by 'hangtag route tune {fast.name} {accurate.name} --lose-at-most {lose_at_most:g}' on "
        f"{datetime.now(UTC):%Y-%m-%d}: of {count:,} validation images {chosen.sent_on:.1%} go on to "
        f"{accurate.name}, and {chosen.accuracy:.2%} are right; {fast.name}@{fast.version} alone has "
        f"{tried.first:.2%}, {accurate.name}@{accurate.version} {tried.second:.2%}."
    )
    return "\n".join(
        (
            f'cascade = ["{fast.name}", "{accurate.name}"]',
            f'accept = {{output = "{OUTPUT}", at_least = {chosen.threshold:g}}}',
            'on_overload = "answer"',
            f"expected_sent_on = {chosen.sent_on:.4g}",
            f'description = "{description}"',
        )
    )
