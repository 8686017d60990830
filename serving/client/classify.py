"""``hangtag classify``: classify image files with a served model, or with several side by side."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hangtag.errors import UserError
from hangtag.options import Duration
from hangtag.printable import counted, escaped, printable
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.client import picture_files
from hangtag.serving.client.client import Client
from hangtag.serving.client.messages import Classification, Label
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.image_spec import SUFFIXES, ImageSpec, ImageSpecError

_Outcomes = Mapping[str, Classification | ClientError]
"""The name of a model, as the user wrote it -> the model's answer, or its failure."""


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path), metavar="IMAGE...")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="The served model, as NAME or NAME@VERSION. Repeat the option to compare models.  [default: the server's "
    "only model that classifies images]",
)
@click.option("--model-version", default="", help="The model's version.  [default: the version that serves]")
@server_option
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="The largest number of labels to show.  [default: 3; for a multi-label model, the whole predicted set]",
)
@click.option(
    "--timeout",
    type=Duration(min=0.001),
    default=10.0,
    show_default=True,
    help="The time limit for each image, such as 10s or 500ms.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON for each image.")
@click.option(
    "--draw/--no-draw",
    default=None,
    help="Draw each image, if the output can show colours.  [default: on if the output is a terminal]",
)
@credentials_options
def classify(
    images: tuple[Path, ...],
    models: tuple[str, ...],
    model_version: str,
    server: str,
    top_k: int | None,
    timeout: float,
    as_json: bool,
    draw: bool | None,
    credentials: Credentials,
) -> None:
    """Classify each IMAGE (PNG, JPEG or WebP) with a served model.

    A folder stands for the images in it and in its subfolders. "-" stands for standard input. If a folder also has
    other files, a line on standard error counts these files.

    The server uses an image of the model's input size unchanged. The model's file says whether the server stretches,
    crops or pads images of other sizes, or converts them as photos of garments. If an image fails, standard error
    shows the reason, the other images are still classified, and the exit code is 1.

    A multi-label model answers with a set of labels, in the order of prediction if it predicts one label after another.
    If the model's file has distances between labels, each label after the first is printed with its distance from the
    first, from 0 (the same label) to 1 (the two labels that are farthest apart).

    For a route (docs/reference/routes.md), the command shows which models of the route answered (with --json:
    "answered_by"), and how long each model took.

    For a model of garments, the command warns of pictures that seem blank or inverted (with --json: "warning").

    \b
    Examples:
      hangtag classify examples/garments/*.png --model cnn
      hangtag classify photos/ --model flowers --top-k 5
      curl -s https://example.org/boot.jpg | hangtag classify -
      hangtag classify outfit.png --model cnn_rnn
      hangtag classify photo.jpg --model cnn --model lstm
      hangtag classify photo.jpg --model fast-and-accurate
      hangtag classify photo.jpg --model cnn@2 --model cnn@1
      hangtag classify *.png --json | jq -r '.labels[0].name'
    """
    if model_version and (len(models) > 1 or "@" in "".join(models)):
        raise click.UsageError("--model-version needs a single --model NAME: write --model NAME@VERSION instead.")
    expanded = [picture_files.expand(path) for path in images]
    files = [file for pictures, _ in expanded for file in pictures]
    if count := sum(others for _, others in expanded):
        kinds = ("file whose name has none of the endings", "files whose names have none of the endings")
        click.echo(f"Left out {counted(count, *kinds)} {', '.join(SUFFIXES)}.", err=True)
    names = Counter(file.name for file in files)
    console = Console()
    drawn = console.is_terminal if draw is None else draw
    failed = False
    with Client(server, timeout=timeout, credentials=credentials) as client:
        models = models or (_only_classifier(client),)
        for path in files:
            try:
                data = picture_files.read(path)
                outcomes: _Outcomes
                if len(models) == 1:
                    outcomes = {models[0]: client.classify(data, models[0], version=model_version, top_k=top_k or 0)}
                else:
                    outcomes = client.compare(data, models, top_k=top_k or 0)
            except (OSError, UserError) as error:
                failed = True
                why = error.strerror if isinstance(error, OSError) else escaped(str(error))
                click.echo(f"{path}: {why}", err=True)
                continue
            answers = [outcome for outcome in outcomes.values() if isinstance(outcome, Classification)]
            specs = {_image(client, answer.model, answer.version) for answer in answers}
            warnings = filter(None, (picture_files.warning(data, spec) for spec in specs if spec))
            warning = next(warnings, "")
            if as_json:
                _print_json(path, outcomes, warning)
            elif answers:
                title = path.name if names[path.name] == 1 else str(path)  # the same name in several folders
                _show(console, title, data if drawn else None, printable(answers), len(outcomes) > 1, warning)
            for model, outcome in outcomes.items():
                if isinstance(outcome, ClientError):
                    failed = True
                    click.echo(f"{path}: {model}: {escaped(str(outcome))}", err=True)
    if failed:
        raise SystemExit(1)


def _only_classifier(client: Client) -> str:
    """Return the name of the server's only model that classifies images.

    Raises UserError if there is not exactly one, or if the server does not say which models classify images.
    """
    names = client.models()
    classifiers = [name for name in names if client.parameters(name).get("classifies_images") == "true"]
    if len(classifiers) == 1:
        return classifiers[0]
    kind = f"{len(classifiers)} models that classify images" if classifiers else "models that might not classify images"
    listed = ", ".join(map(escaped, classifiers or names)) or "none"
    raise UserError(f"the server has {kind}: {listed}; name one with --model.")


@cache
def _image(client: Client, model: str, version: str) -> ImageSpec | None:
    """Return which pictures a model accepts; None if the server does not say."""
    try:
        text = client.parameters(model, version=version).get("hangtag.image")
        return ImageSpec.parse(text) if text is not None else None
    except (ClientError, ImageSpecError):
        return None


def _print_json(path: Path, outcomes: _Outcomes, warning: str) -> None:
    models = [{"model": model} | _fields(outcome) for model, outcome in outcomes.items()]
    answer = models[0] if len(models) == 1 else {"models": models}
    click.echo(json.dumps({"image": str(path)} | answer | ({"warning": warning} if warning else {})))


def _show(
    console: Console, title: str, image: bytes | None, answers: Sequence[Classification], compared: bool, warning: str
) -> None:
    """Print the answers for a picture as a table, to the right of the picture if ``image`` is given."""
    heading = Text(title + (_verdict(answers) if compared else _set(answers[0])), style="italic")
    picture_files.print_with_image(console, image, Group(heading, _table(answers)))
    if warning:
        console.print(Text.assemble(("WARNING ", "bold yellow"), warning))
    console.print()


def _table(answers: Sequence[Classification]) -> Table:
    """Make a table with a column for each model. The first row has the first label of each model, and so on."""
    result = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True, footer_style="dim")
    for answer in answers:
        # fold wraps a long text instead of cutting it off
        result.add_column(Text(f"{answer.model} version {answer.version}"), Text(_costs(answer)), overflow="fold")
    for rank in zip_longest(*(answer.labels for answer in answers)):
        result.add_row(*map(_cell, rank))
    return result


def _costs(answer: Classification) -> str:
    """Say how long the answer took. For a route, also say which member answered, and how long each member took."""
    lines = [f"{answer.queue_ms:.1f} ms queued, {answer.compute_ms:.1f} ms computed"]
    if answer.stages:
        lines.append(f"answered by {answer.answered_by}" + (", which was not sure" if answer.unsure else ""))
    if len(answer.stages) > 1:
        lines += [f"{stage.model}: {stage.queue_ms + stage.compute_ms:.1f} ms" for stage in answer.stages]
    return "\n".join(lines)


def _cell(label: Label | None) -> Text:
    if label is None:
        return Text("")
    distance = f"  distance {label.distance:.2f}" if label.distance else ""
    return Text(f"{label.probability:7.2%}  {label.name}{distance}")


def _verdict(answers: Sequence[Classification]) -> str:
    """Say whether the models agree on the first label, or, if one of them is a multi-label model, on the whole set."""
    if len(answers) == 1:
        return f": only {answers[0].model} answered"
    sets = any(answer.task == "multi_label" for answer in answers)
    predictions = {frozenset(label.name for label in answer.labels[: None if sets else 1]) for answer in answers}
    return f": {len(answers)} models {'agree' if len(predictions) == 1 else 'differ'}"


def _set(answer: Classification) -> str:
    """Say how many labels a multi-label model predicts, and how probable it is that exactly these are right."""
    if answer.task != "multi_label":
        return ""
    whole = "" if answer.path_probability is None else f"; {answer.path_probability:.2%} for the whole set"
    return f": {counted(len(answer.labels), 'label', 'labels')}{whole}"


def _fields(outcome: Classification | ClientError) -> dict[str, Any]:
    if isinstance(outcome, ClientError):
        return {"error": str(outcome), "code": outcome.code.name}
    fields = asdict(outcome, dict_factory=lambda items: {key: value for key, value in items if value is not None})
    if outcome.stages:
        return fields | {"answered_by": outcome.answered_by}
    return {name: value for name, value in fields.items() if name not in ("stages", "unsure")}
