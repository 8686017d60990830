"""``hangtag classify``: classify image files with a served model, or with several side by side."""

from collections import Counter
from functools import cache
from pathlib import Path

import click
from rich.console import Console

from hangtag.errors import UserError
from hangtag.options import Duration
from hangtag.printable import counted, escaped
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.client import answers, picture_files
from hangtag.serving.client.classification import Classification, split_version
from hangtag.serving.client.client import Client
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.image_spec import SUFFIXES, ImageSpec, ImageSpecError

_CLASSIFIES, _IMAGE = "classifies_images", "hangtag.image"


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
    help="The time limit for each image, such as 10 or 500ms.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON for each image.")
@click.option(
    "--draw/--no-draw",
    default=None,
    help="Draw each image if the output has colours.  [default: on if the output is a terminal]",
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
    crops or pads any other image, or converts the image like a photo of a garment. If an image fails, standard error
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
    if len(models) > 1 and model_version:
        raise click.UsageError("--model-version needs a single model: write --model NAME@VERSION for each instead.")
    if models and split_version(models[0])[1] and model_version:
        raise click.UsageError("--model NAME@VERSION and --model-version both name a version; give one of them.")
    expanded = [picture_files.expand(path) for path in images]
    files = [file for pictures, _ in expanded for file in pictures]
    if count := sum(others for _, others in expanded):
        kinds = ("file whose name does not end", "files whose names do not end")
        click.echo(f"Left out {counted(count, *kinds)} in {', '.join(SUFFIXES)}.", err=True)
    names = Counter(file.name for file in files)
    console = Console()
    drawn = console.is_terminal if draw is None else draw
    failed = False
    with Client(server, timeout=timeout, credentials=credentials) as client:
        models = models or (_only_classifier(client),)
        for path in files:
            try:
                data = picture_files.read(path)
                outcomes: answers.Outcomes
                if len(models) == 1:
                    outcomes = {models[0]: client.classify(data, models[0], version=model_version, top_k=top_k or 0)}
                else:
                    outcomes = client.compare(data, models, top_k=top_k or 0)
            except (OSError, UserError) as error:
                failed = True
                why = error.strerror if isinstance(error, OSError) else escaped(str(error))
                click.echo(f"{path}: {why}", err=True)
                continue
            warning = _warning(client, data, outcomes)
            if as_json:
                answers.print_json(path, outcomes, warning)
            else:
                title = path.name if names[path.name] == 1 else str(path)  # the same name in several folders
                answers.show(console, title, data if drawn else None, outcomes, warning)
            failed |= answers.show_failures(path, outcomes)
    if failed:
        raise SystemExit(1)


def _only_classifier(client: Client) -> str:
    """Return the name of the server's only model that classifies images.

    Raises UserError if no model or several models classify images, or if the server, for example an earlier release,
    does not say which models do.
    """
    names = client.models()
    classifiers = [name for name in names if client.parameters(name).get(_CLASSIFIES) == "true"]
    if len(classifiers) == 1:
        return classifiers[0]
    if not names:
        raise UserError("the server serves no model.")
    kind = f"{len(classifiers)} models that classify images" if classifiers else "models that might not classify images"
    raise UserError(f"the server has {kind}: {', '.join(map(escaped, classifiers or names))}; name one with --model.")


@cache
def _image(client: Client, model: str, version: str) -> ImageSpec | None:
    """Return which pictures a model accepts; None if the server does not say."""
    try:
        text = client.parameters(model, version=version).get(_IMAGE)
        return ImageSpec.parse(text) if text is not None else None
    except (ClientError, ImageSpecError):
        return None


def _warning(client: Client, data: bytes, outcomes: answers.Outcomes) -> str:
    """Say what is wrong with a picture for the models that answered; "" if nothing is wrong."""
    answered = [outcome for outcome in outcomes.values() if isinstance(outcome, Classification)]
    images = {_image(client, answer.model, answer.version) for answer in answered}
    return next((text for image in images if image and (text := picture_files.warning(data, image))), "")
