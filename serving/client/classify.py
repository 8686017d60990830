"""``hangtag classify``: classify image files with a served model, or with several side by side."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hangtag.errors import UserError
from hangtag.options import FiniteRange
from hangtag.printable import escaped, printable
from hangtag.serving.client import image_files, picture_check, pictures, side_by_side
from hangtag.serving.client.classification import Classification, split_version
from hangtag.serving.client.client import Client
from hangtag.serving.client.served_classifiers import ServedClassifiers
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.options import credentials_options, server_option


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path), metavar="IMAGE...")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="The served model, NAME or NAME@VERSION. Give it several times to show their answers side by side.  "
    "[default: the server's only model that classifies images]",
)
@click.option("--model-version", default="", help="One of its versions.  [default: the one that serves]")
@server_option
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="How many labels to show at most.  [default: 3; the whole set of a multi-label model]",
)
@click.option("--timeout", type=FiniteRange(min=0.001), default=10.0, show_default=True, help="Seconds per image.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON per image, for scripts.")
@click.option("--draw/--no-draw", default=None, help="Draw each image.  [default: if the output is a terminal]")
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

    A folder stands for the images in it and in its folders, and - for standard input.

    An image of the model's input size is used as it is; the server makes any other fit as the model's file says:
    stretched, cropped, padded, or converted as a photo of a garment. An image that fails is reported on standard
    error, the others are still classified, and the exit code is 1.

    A multi-label model answers with a set of labels, in the order of prediction if it predicts one after another. If
    the model's file has distances of labels, each runner-up shows its distance from the first label: 0 is the same, 1
    the farthest pair.

    A route (docs/routes.md) says which of its models answered (with --json: "answered_by"), and what each one took.

    For a model of garments, a picture that seems blank or inverted is still classified, with a warning that says what
    helps (with --json: "warning").

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
    if len(models) > 1 and model_version:
        raise click.UsageError("--model-version needs a single model: write --model NAME@VERSION for each instead.")
    if models and split_version(models[0])[1] and model_version:
        raise click.UsageError("--model NAME@VERSION and --model-version both name a version; give one of them.")
    files = [file for path in images for file in image_files.expand(path)]
    names = Counter(file.name for file in files)
    console = Console()
    drawn = console.is_terminal if draw is None else draw
    failed = False
    with Client(server, timeout=timeout, credentials=credentials) as client:
        classifiers = ServedClassifiers(client)
        model = models[0] if models else classifiers.only_one()
        for path in files:
            title = path.name if names[path.name] == 1 else str(path)  # a folder for each class may repeat names
            try:
                data = image_files.read(path)
                if len(models) > 1:
                    outcomes = client.compare(data, models, top_k=top_k or 0)
                    warning = _warning(data, classifiers, *outcomes.values())
                    failed |= _show_compared(console, path, title, data, outcomes, warning, as_json, drawn)
                    continue
                answer = client.classify(data, model, version=model_version, top_k=top_k or 0)
            except (OSError, UserError) as error:
                failed = True
                why = error.strerror if isinstance(error, OSError) else escaped(str(error))
                click.echo(f"{path}: {why}", err=True)
                continue
            warning = _warning(data, classifiers, answer)
            if as_json:
                click.echo(json.dumps({"image": str(path), **_fields(answer), **_optional(warning)}))
            else:
                _show(console, title, data, printable(answer), drawn, warning)
    if failed:
        raise SystemExit(1)


def _show(console: Console, title: str, data: bytes, answer: Classification, drawn: bool, warning: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for rank, label in enumerate(answer.labels):
        distance = f"distance {label.distance:.2f} of 1" if rank and label.distance is not None else None
        table.add_row(Text(label.name), f"{label.probability:7.2%}", "█" * round(label.probability * 20), distance)
    pictures.print_with_image(console, data if drawn else None, Group(_title(title, answer), table))
    _print_warning(console, warning)
    console.print(Text(f"{cost_line(answer)}\n", style="dim"))


def cost_line(answer: Classification) -> str:
    """Say which model answered and what that took; of a route, which member did, and what each one took."""
    line = f"{answer.model} version {answer.version}"
    if answer.stages:
        line += f", answered by {answer.answered_by}" + (", which was not sure" if answer.unsure else "")
    line += f": {answer.queue_ms:.1f} ms queued, {answer.compute_ms:.1f} ms computed"
    if len(answer.stages) > 1:
        took = [f"{stage.model} {stage.queue_ms + stage.compute_ms:.1f} ms" for stage in answer.stages]
        line += f" ({', then '.join(took)})"
    return line


def _show_compared(
    console: Console,
    path: Path,
    title: str,
    data: bytes,
    outcomes: Mapping[str, Classification | ClientError],
    warning: str,
    as_json: bool,
    drawn: bool,
) -> bool:
    """Print the outcomes; return whether a model failed."""
    failures = {model: outcome for model, outcome in outcomes.items() if isinstance(outcome, ClientError)}
    answers = [outcome for outcome in outcomes.values() if isinstance(outcome, Classification)]
    if as_json:
        models = [{"model": model} | _fields(outcome) for model, outcome in outcomes.items()]
        click.echo(json.dumps({"image": str(path), "models": models, **_optional(warning)}))
    elif answers:
        answers = printable(answers)
        table = side_by_side.table(answers)
        heading = Text(f"{title}: {side_by_side.verdict(answers)}", style="italic")
        pictures.print_with_image(console, data if drawn else None, Group(heading, table))
        _print_warning(console, warning)
        console.print()
    for model, failure in failures.items():
        click.echo(f"{path}: {model}: {escaped(str(failure))}", err=True)
    return bool(failures)


def _warning(data: bytes, classifiers: ServedClassifiers, *outcomes: Classification | ClientError) -> str:
    """Say what is wrong with a picture for the models that answered; "" where nothing is."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Classification)]
    images = {classifiers.image(answer.model, answer.version) for answer in answers}
    return next((text for image in images if image and (text := picture_check.warning(data, image))), "")


def _print_warning(console: Console, warning: str) -> None:
    if warning:
        console.print(Text.assemble(("WARNING ", "bold yellow"), warning))


def _optional(warning: str) -> dict[str, str]:
    return {"warning": warning} if warning else {}


def _fields(outcome: Classification | ClientError) -> dict[str, Any]:
    if isinstance(outcome, ClientError):
        return {"error": str(outcome), "code": outcome.code.name}
    fields = asdict(outcome, dict_factory=_without_none)
    if outcome.stages:
        return fields | {"answered_by": outcome.answered_by}
    return {name: value for name, value in fields.items() if name not in ("stages", "unsure")}


def _title(name: str, answer: Classification) -> Text:
    if answer.task != "multi_label":
        return Text(name, style="italic")
    count = len(answer.labels)
    title = f"{name}: {count or 'no'} label{'' if count == 1 else 's'}"
    if answer.path_probability is not None:
        title += f"{', in the order predicted' if count > 1 else ''}; {answer.path_probability:.2%} for the whole set"
    elif count > 1:
        title += ", most probable first"
    return Text(title, style="italic")


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}
