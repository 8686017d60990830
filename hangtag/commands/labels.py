"""``hangtag labels``: show how far apart labels are to a trained network, as a table, a picture and a file."""

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table
from rich.text import Text

from hangtag.evaluation import label_sources
from hangtag.extras import needs
from hangtag.options import JsonCommand, json_option, refuse, runs_option
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.training.labels.distance import LabelDistances


@click.command(cls=JsonCommand)
@click.argument("source", metavar="RUN|FILE.onnx|FOLDER|FILE.json")
@runs_option
@click.option("--label", help="Show every other label's distance from this label.  [default: each label's nearest]")
@click.option(
    "--nearest",
    type=click.IntRange(min=1),
    help="How many neighbours of each label to show.  [default: 3; with --label all]",
)
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the matrix as a heat map, a PNG file."
)
@json_option("the distances")
def labels(
    source: str, runs: Path, label: str | None, nearest: int | None, picture: Path | None, json_file: str | None
) -> None:
    """Show how far apart the labels are to a trained network: 0 is the same, 1 the farthest pair.

    A CNN-RNN has an embedding for each label; for another network the last layer's weights are used. The labels are
    the network's own, such as Fashion-MNIST's or VOC's. The distance between two labels is the cosine distance of their
    embeddings, divided by the largest distance. FOLDER is a model in a repository, and stands for the version that
    serves. 'hangtag evaluate' measures the severity of mistakes by these distances, and 'hangtag train --loss
    embedding-distance' trains with them.

    \b
    Examples:
      hangtag labels cnn                                    the latest finished cnn run
      hangtag labels models/cnn --label Shirt               what is nearest to a shirt?
      hangtag labels cnn_rnn --picture labels.png --json=distances.json
    """
    if source.endswith((".onnx", ".json")):
        refuse("runs", because=f"{source} is a file.")
    for path in (picture, None if json_file in (None, "-") else Path(json_file)):
        if path is not None:
            require_writable(path)
    distances = label_sources.read_distances(source, runs)
    table = _neighbours(distances, nearest or 3) if label is None else _of_one(distances, label, nearest)
    if json_file != "-":
        Console().print(table)
    if picture is not None:
        with needs("export", "drawing a picture"):
            from hangtag.evaluation import pictures
        pictures.label_distances(distances, picture)
    if json_file is not None:
        write_text(json_file, distances.text())


def _neighbours(distances: LabelDistances, count: int) -> Table:
    table = Table("label", "nearest first, with the distance", box=None, pad_edge=False, header_style="dim")
    for label in distances.labels:
        near = distances.neighbours(label)[:count]
        nearest = "   ".join(f"{neighbour.label} {neighbour.distance:.2f}" for neighbour in near)
        table.add_row(Text(escaped(label)), Text(escaped(nearest)))
    return table


def _of_one(distances: LabelDistances, label: str, count: int | None) -> Table:
    table = Table(escape_markup(f"from {escaped(label)}"), "distance", "", box=None, pad_edge=False, header_style="dim")
    for neighbour in distances.neighbours(label)[:count]:
        table.add_row(Text(escaped(neighbour.label)), f"{neighbour.distance:.3f}", "█" * round(neighbour.distance * 20))
    return table
