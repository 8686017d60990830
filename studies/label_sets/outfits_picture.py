"""``make docs``: docs/images/outfits.png, the first test canvases of both sets, labelled."""

from io import BytesIO
from pathlib import Path

import click
from matplotlib.figure import Figure
from PIL import Image

from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.data.multi_label import MultiLabelData

_COLUMNS, _ROWS = 6, 2  # of each set
_SHORT = {"T-shirt/top": "T-shirt", "Ankle boot": "Boot"}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images/outfits.png"), show_default=True)
def main(data_dir: Path | None, out: Path) -> None:
    """Draw the first canvases of the test split of each set."""
    garments = fashion_mnist.load(data_dir)
    drawn = BytesIO()
    draw([outfits.load(name, garments, sizes=_ONLY_SHOWN) for name in outfits.NAMES]).savefig(drawn, dpi=85)
    # Noise is hard to compress: 16 shades of grey look the same and take a third of the bytes.
    Image.open(drawn).convert("L").quantize(16).save(out, optimize=True)
    click.echo(f"drawn: {out}", err=True)


_ONLY_SHOWN = {"train": 1, "validation": 1, "test": _COLUMNS * _ROWS}


def draw(sets: list[MultiLabelData]) -> Figure:
    """A grid of canvases, set below set."""
    figure = Figure(figsize=(1.5 * _COLUMNS, 2.05 * _ROWS * len(sets)), layout="constrained")
    for part, shown in zip(figure.subfigures(len(sets), 1, squeeze=False)[:, 0], sets, strict=True):
        part.suptitle(shown.name, fontsize=11)
        for index, axes in enumerate(part.subplots(_ROWS, _COLUMNS).flat):
            labels = [
                _SHORT.get(name, name) for name, has in zip(shown.labels, shown.test.labels[index], strict=True) if has
            ]
            axes.imshow(shown.test.images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                "\n".join([", ".join(labels[:2]), ", ".join(labels[2:4]), ", ".join(labels[4:])]), fontsize=7
            )
            axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
