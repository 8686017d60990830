"""``hangtag route``: choose a cascade's threshold from data, and write its route.toml."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from hangtag.commands.models_view import followers
from hangtag.evaluation.cascade import members as cascade_members
from hangtag.evaluation.cascade import route_text
from hangtag.evaluation.cascade.curve import Curve, Point
from hangtag.evaluation.cascade.members import Members
from hangtag.evaluation.errors import EvaluationError
from hangtag.extras import MissingExtraError, needs
from hangtag.options import FiniteRange, limit_option, models_option, samples_option
from hangtag.output import write_text
from hangtag.printable import escaped
from hangtag.serving.model_repository import ROUTE_FILE, is_model_name, numbered_versions


@click.group()
def route() -> None:
    """Choose how a cascade of models answers. docs/routes.md says what routes are."""


@route.command()
@click.argument("names", metavar="FAST [MORE]... ACCURATE", nargs=-1, required=True)
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
@limit_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set is now, if it was moved.")
@samples_option
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports/route"),
    show_default=True,
    help="Folder for the report with the curves, NAME.html.",
)
@models_option("The model repository that has the models, and gets the route.")
def tune(
    names: Sequence[str],
    lose_at_most: float,
    name: str,
    replace: bool,
    dry_run: bool,
    limit: int | None,
    data_dir: Path | None,
    samples: str | None,
    reports: Path,
    models: Path,
) -> None:
    """Choose the lowest probability at which FAST's answer is taken; others go on to the next model.

    The models answer the validation images of FAST's data set, which none was trained on, or those of --samples; the
    test images are not looked at. The lowest threshold that loses at most --lose-at-most points of ACCURATE's accuracy
    is written to <models>/NAME/route.toml, with where it came from; one threshold is for all models but the last. The
    command says when a running server follows it. A model may be NAME@VERSION; a server serves more than the newest
    with --num-versions.

    \b
    Examples:
      hangtag route tune lstm cnn                           at most 0.1 points less than cnn
      hangtag route tune lstm cnn --lose-at-most 1 --dry-run
      hangtag route tune lstm lstm2 cnn --name three        three models
      hangtag route tune lstm cnn@1 --name older            a version, and not the one that serves
      hangtag route tune small large --samples folder:kept  with pictures of your own that none was trained on
      hangtag evaluate fast-and-accurate --server 127.0.0.1:8001
    """
    if not is_model_name(name):
        raise click.BadParameter(f"{name!r} cannot be a route's name.", param_hint="--name")
    if len(names) < 2:
        raise click.UsageError("a cascade needs at least two models, the fastest first.")
    file = models / name / ROUTE_FILE
    if file.exists() and not (replace or dry_run):
        raise EvaluationError(f"{file} is there already. Name another route with --name, or replace it with --replace.")
    if numbered_versions(models / name):
        raise EvaluationError(f"{models / name} holds a model; a route needs another name, given with --name.")
    members = cascade_members.measure(models, names, limit=limit, data_dir=data_dir, own=samples)
    for note in members.notes:
        click.echo(escaped(note), err=True)
    tried = members.curve()
    chosen = tried.cheapest(lose_at_most / 100)
    _print(members, tried, chosen, lose_at_most)
    if dry_run:
        return
    write_text(str(file), route_text.text(members, tried, chosen, lose_at_most))
    _write_report(reports / f"{name}.html", members, tried, chosen, lose_at_most)
    click.echo(followers(name), err=True)


def _write_report(file: Path, members: Members, tried: Curve, chosen: Point, lose_at_most: float) -> None:
    try:
        with needs("export", "the report"):
            from hangtag.evaluation.cascade.page import page
    except MissingExtraError as error:  # the route is written all the same: it may be chosen where it serves
        click.echo(f"no report: {error}", err=True)
        return
    write_text(str(file), page(members, tried, chosen, file.stem, lose_at_most))


def _print(members: Members, tried: Curve, chosen: Point, lose_at_most: float) -> None:
    names, times = members.names, members.microseconds
    last = names[-1]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for header in ("at least", *(f"sent on to {name}" for name in names[1:]), "accuracy", f"against {last}", "cost"):
        table.add_column(header, justify="right")
    for point in tried.shown(chosen):
        table.add_row(
            f"{point.threshold:g}",
            *(f"{share:.1%}" for share in point.reached[1:]),
            f"{point.accuracy:.2%}",
            f"{100 * (point.accuracy - tried.alone[-1]):+.2f} points",
            f"{point.cost(times):.2f} of {last}'s",
            style="bold green" if point is chosen else None,
        )
    console = Console()
    alone = ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in zip(names, tried.alone, strict=True))
    console.print(f"{members.images}; right alone: {alone}")
    console.print(table)
    cost = chosen.cost(times)
    console.print(
        f"Chosen: {chosen.threshold:g}. To expect: of such images {route_text.sent_on(names, chosen)}, and an image "
        f"costs {cost:.2f} of what {last} alone takes."
    )
    if cost >= 1:
        console.print(f"This cascade saves nothing: {last} alone takes no longer.")
    elif not chosen.reached[1]:
        console.print(f"You need no cascade: {names[0]} alone loses no more than you allow, and answers every image.")
    for place in range(1, len(names) - 1):
        _print_without(members, place, lose_at_most)


def _print_without(members: Members, place: int, lose_at_most: float) -> None:
    """Say what the cascade costs without one of its middle models, which may not be worth its time."""
    fewer = members.without(place)
    try:
        point = fewer.curve().cheapest(lose_at_most / 100)
    except EvaluationError:
        return  # without it, every threshold loses more
    Console().print(
        f"Without {members.names[place]}: {point.threshold:g}, {route_text.sent_on(fewer.names, point)}, and an image "
        f"costs {point.cost(fewer.microseconds):.2f}."
    )
