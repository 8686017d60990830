"""Draws docs/images/outfits.png: the first test canvases of both data sets with their labels."""

from matplotlib.figure import Figure

from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.data.dataset import Dataset
from studies.pictures import Picture

_COLUMNS, _ROWS = 6, 2  # for each data set
_SHORT = {"T-shirt/top": "T-shirt", "Ankle boot": "Boot"}
_SIZES = {"train": 1, "validation": 1, "test": _COLUMNS * _ROWS}


def draw_first_canvases() -> Figure:
    """Composes the canvases from Fashion-MNIST's files where they usually are."""
    garments = fashion_mnist.load(None)
    return draw([outfits.load(name, garments, sizes=_SIZES) for name in outfits.NAMES])


def draw(datasets: list[Dataset]) -> Figure:
    """A grid of canvases for each data set, one below the other."""
    figure = Figure(figsize=(1.5 * _COLUMNS, 2.05 * _ROWS * len(datasets)), layout="constrained")
    for part, data in zip(figure.subfigures(len(datasets), 1, squeeze=False)[:, 0], datasets, strict=True):
        part.suptitle(data.name, fontsize=11)
        for index, axes in enumerate(part.subplots(_ROWS, _COLUMNS).flat):
            labels = [
                _SHORT.get(name, name) for name, has in zip(data.labels, data.test.classes[index], strict=True) if has
            ]
            axes.imshow(data.test.images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                "\n".join([", ".join(labels[:2]), ", ".join(labels[2:4]), ", ".join(labels[4:])]), fontsize=7
            )
            axes.set_axis_off()
    return figure


# Noise is hard to compress: 16 shades of grey look the same and take a third of the bytes.
PICTURE = Picture("outfits.png", draw_first_canvases, dpi=85, colours=16, grey=True)
