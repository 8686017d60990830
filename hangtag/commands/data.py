"""``hangtag data``: look at a data set before a network learns from it."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.output import require_writable, writing
from hangtag.printable import escaped
from hangtag.training.data import sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.options import data_options

_SHOWN = 8
"""Pictures of each class on a contact sheet."""
_MOST_ROWS = 100
_EDGE, _MARGIN, _LABEL_WIDTH = 72, 6, 160  # pixels


@click.group()
def data() -> None:
    """Look at data sets."""


@data.command()
@click.argument("source")
@data_options
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help=f"Draw {_SHOWN} training pictures of each class, as the network sees them.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the classes, counts and notes as JSON.")
def show(source: str, data_dir: Path | None, sheet: Path | None, as_json: bool, **own: Any) -> None:
    """Read SOURCE as 'hangtag train --data SOURCE' does, and show its classes, how many pictures each has in every
    split, what was left out, and what the network will see.

    \b
    Examples:
      hangtag data show folder:photos
      hangtag data show folder:photos --size 64x64 --sheet photos.png
      hangtag data show csv:labels.csv --json
    """
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise click.UsageError(f"--sheet {sheet}: the sheet is a PNG file, so give it a name that ends in .png.")
        require_writable(sheet)
    dataset = sources.load(source, data_dir, own=sources.own_pictures(source, **own))
    if as_json:
        click.echo(json.dumps(_document(dataset)))
    else:
        _print(dataset)
    if sheet is not None:
        with writing(sheet):
            contact_sheet(dataset).save(sheet)
        if len(dataset.labels) > _MOST_ROWS:
            click.echo(f"{sheet} shows the first {_MOST_ROWS} of {len(dataset.labels)} classes.", err=True)


def contact_sheet(dataset: Dataset) -> Image.Image:
    """Draw the first training pictures of each class, a row for each, with the class's name."""
    rows = min(len(dataset.labels), _MOST_ROWS)
    step = _EDGE + _MARGIN
    drawn = Image.new("RGB", (_LABEL_WIDTH + _SHOWN * step + _MARGIN, rows * step + _MARGIN), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(14)
    for row, label in enumerate(dataset.labels[:rows]):
        top = _MARGIN + row * step
        pen.text((_MARGIN, top + _EDGE // 2 - 8), label[:20], fill="black", font=font)
        for place, index in enumerate(_members(dataset, row)[:_SHOWN].tolist()):
            picture = Image.fromarray(dataset.train.images[index]).convert("RGB")
            scale = _EDGE / max(picture.size)
            wanted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(wanted, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
            drawn.paste(picture, (_LABEL_WIDTH + place * step, top))
    return drawn


def _members(dataset: Dataset, label: int) -> Any:
    """The indices of a label's training images."""
    classes = dataset.train.classes
    return np.flatnonzero(classes[:, label] if dataset.has_label_sets else classes == label)


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """How many images each label has in each split."""
    counts: dict[str, dict[str, int]] = {label: {} for label in dataset.labels}
    for split in ("train", "validation", "test"):
        classes = getattr(dataset, split).classes
        own = classes.sum(axis=0) if dataset.has_label_sets else np.bincount(classes, minlength=len(dataset.labels))
        for label, count in zip(dataset.labels, own.tolist(), strict=True):
            counts[label][split] = count
    return counts


def _document(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "source": dataset.source,
        "digest": dataset.digest,
        "image": dataset.image.as_json(),
        "splits": dataset.sizes,
        "labels": _counts(dataset),
        "notes": list(dataset.notes),
    }


def _print(dataset: Dataset) -> None:
    table = Table("class", "train", "validation", "test", box=None, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, counts in _counts(dataset).items():
        table.add_row(Text(escaped(label)), *(f"{count:,}" for count in counts.values()))
    table.add_row(
        Text(f"all {len(dataset.labels)}", style="dim"),
        *(f"{size:,}" for size in dataset.sizes.values()),
    )
    console = Console()
    console.print(table)
    console.print(f"images: {dataset.image}")
    for note in dataset.notes:
        console.print(Text(escaped(note)))
