"""Draws docs/images/outfits.png: the first test canvases of both data sets with their labels."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.data.dataset import Split
from studies.pictures import Picture

_COLUMNS, _ROWS = 6, 2  # for each data set
_SHORT = {"T-shirt/top": "T-shirt", "Ankle boot": "Boot"}


def draw_first_canvases() -> Figure:
    """Composes the canvases from Fashion-MNIST's files where they usually are."""
    garments = fashion_mnist.load_test()
    return draw({name: outfits.load_split(name, "test", garments, _COLUMNS * _ROWS) for name in outfits.NAMES})


def draw(canvases: Mapping[str, Split]) -> Figure:
    """A grid of canvases for each data set, one below the other."""
    figure = Figure(figsize=(1.5 * _COLUMNS, 2.05 * _ROWS * len(canvases)), layout="constrained")
    parts = figure.subfigures(len(canvases), 1, squeeze=False)[:, 0]
    for part, (name, split) in zip(parts, canvases.items(), strict=True):
        part.suptitle(name, fontsize=11)
        for index, axes in enumerate(part.subplots(_ROWS, _COLUMNS).flat):
            has = zip(fashion_mnist.LABELS, split.classes[index], strict=True)
            labels = [_SHORT.get(label, label) for label, shown in has if shown]
            axes.imshow(split.images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                "\n".join([", ".join(labels[:2]), ", ".join(labels[2:4]), ", ".join(labels[4:])]), fontsize=7
            )
            axes.set_axis_off()
    return figure


# Noise is hard to compress: 16 shades of grey look the same and take a third of the bytes.
PICTURE = Picture("outfits.png", draw_first_canvases, dpi=85, colours=16, grey=True)
