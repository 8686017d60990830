"""``hangtag data`` shows a data set before a network is trained on it."""

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hangtag.extras import needs
from hangtag.options import options_of
from hangtag.output import require_writable, writing
from hangtag.printable import escaped
from hangtag.tables import print_json, print_plain, table
from hangtag.training.data import sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.sources import DataOptions

_SHOWN = 8
"""The number of pictures of each class on a contact sheet."""
_MOST_ROWS = 100
_EDGE, _GAP = 72, 6
"""The longest edge of a picture on a contact sheet, and the gap between two pictures, in pixels."""


@click.group()
def data() -> None:
    """Look at data sets."""


@data.command()
@click.argument("source")
@options_of(DataOptions, "data")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help=f"Draw {_SHOWN} training pictures of each class, as the network receives them. Needs the extra export.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the classes, counts and notes as JSON.")
def show(source: str, sheet: Path | None, as_json: bool, **options: Any) -> None:
    """Show the classes of a data set, the number of pictures of each class in every split, and the network's input.

    The command reads SOURCE as 'hangtag train --data SOURCE' does. It also shows the sizes of the files, and the files
    that were left out.

    SOURCE is fashion-mnist, outfits, outfits-independent or voc2007, or names your own pictures: folder:PHOTOS with
    PHOTOS/CLASS/*.jpg, or with PHOTOS/train/CLASS and PHOTOS/test/CLASS; csv:FILE with the columns path, label and
    optionally split; or idx:FOLDER with four files in MNIST's format.

    \b
    Examples:
      hangtag data show folder:photos
      hangtag data show folder:photos --size 64x64 --sheet photos.png
      hangtag data show csv:labels.csv --json
    """
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise click.UsageError(f"--sheet {sheet}: the sheet is a PNG file, so its name must end in .png.")
        require_writable(sheet)
        with needs("export", "--sheet"):  # checked first, because reading the pictures may take minutes
            from matplotlib.font_manager import findfont
    given = DataOptions(data=source, **options)
    dataset = sources.load(source, given.data_dir, own=given.own_pictures)
    counts = _counts(dataset)
    if as_json:
        document = {key: getattr(dataset, key) for key in ("name", "source", "digest", "files")}
        own = {"image": dataset.image.as_json(), "splits": dataset.sizes, "labels": counts, "notes": [*dataset.notes]}
        print_json(document | own)
    else:
        lines = {**counts, f"all {len(dataset.labels)}": dataset.sizes}
        rows = [(label, *(f"{count:,}" for count in each.values())) for label, each in lines.items()]
        print_plain(table(("class", *dataset.sizes), rows, right=dataset.sizes))
        if dataset.files:
            click.echo(f"files: {dataset.files}")
        click.echo(f"images: {dataset.image}")
        for note in dataset.notes:
            click.echo(escaped(note))
    if sheet is not None:
        _draw_sheet(dataset, sheet, ImageFont.truetype(findfont("DejaVu Sans"), 12))
        if len(dataset.labels) > _MOST_ROWS:
            click.echo(f"{sheet} shows the first {_MOST_ROWS} of {len(dataset.labels)} classes.", err=True)


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {label: {} for label in dataset.labels}
    for split in dataset.sizes:
        classes = getattr(dataset, split).classes
        own = classes.sum(axis=0) if dataset.has_label_sets else np.bincount(classes, minlength=len(counts))
        for label, count in zip(dataset.labels, own.tolist(), strict=True):
            counts[label][split] = count
    return counts


def _draw_sheet(dataset: Dataset, file: Path, font: ImageFont.FreeTypeFont) -> None:
    """Draw the first training pictures of each class in a row that begins with the class's name."""
    labels, images, classes = [*map(escaped, dataset.labels[:_MOST_ROWS])], dataset.train.images, dataset.train.classes
    height, width = images.shape[1:3]
    scale = max(height, width) / _EDGE
    left = math.ceil(max(map(font.getlength, labels))) + 2 * _GAP
    sheet = Image.new("RGB", (left + _SHOWN * (_EDGE + _GAP), len(labels) * (_EDGE + _GAP)), "white")
    for row, label in enumerate(labels):
        top = row * (_EDGE + _GAP)
        ImageDraw.Draw(sheet).text((_GAP, top + _EDGE / 2), label, "black", font, anchor="lm")
        members = np.flatnonzero(classes[:, row] if dataset.has_label_sets else classes == row)[:_SHOWN]
        for place, index in enumerate(members):
            size = max(1, round(width / scale)), max(1, round(height / scale))
            sheet.paste(Image.fromarray(images[index]).resize(size), (left + place * (_EDGE + _GAP), top))
    with writing(file):
        sheet.save(file, format="png")
