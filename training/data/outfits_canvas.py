"""Composes a canvas: garments at random scale, contrast and position, overlapping, among clutter."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag.training.data.dataset import Images, Split
from hangtag.training.data.fashion_mnist import LABELS

CANVAS_SIZE = 64  # height and width
GARMENT_SIZES = (12, 28)  # pixels: the smallest and the largest side
CONTRAST = (0.4, 1.0)  # factor of a garment's brightness
SCRAPS = 4  # the most pieces of clutter on a canvas
SCRAP_SIZES = (5, 14)
OPAQUE = 40  # a pixel this bright hides what is below it; darker ones are translucent, black is transparent

Canvas = npt.NDArray[np.uint8]  # [64, 64]


class Wardrobe:
    """The garments of a split, by class."""

    def __init__(self, garments: Split) -> None:
        self.all: Images = garments.images
        self.by_class: list[Images] = [garments.images[garments.classes == label] for label in range(len(LABELS))]


def compose(labels: npt.NDArray[np.intp], wardrobe: Wardrobe, rng: np.random.Generator) -> Canvas:
    """One canvas with a garment of every label: noise, then clutter and garments in random order, the last on top."""
    noise = np.frombuffer(rng.bytes(CANVAS_SIZE * CANVAS_SIZE), np.uint8).reshape(CANVAS_SIZE, CANVAS_SIZE)
    canvas: Canvas = np.right_shift(noise, 3) + np.uint8(rng.integers(40))
    scraps = int(rng.integers(SCRAPS + 1))
    for label in rng.permutation(np.concatenate([labels, np.full(scraps, -1)])):
        if label < 0:
            _paste(_scrap(wardrobe, rng), SCRAP_SIZES, canvas, rng)
        else:
            garments = wardrobe.by_class[label]
            _paste(garments[rng.integers(len(garments))], GARMENT_SIZES, canvas, rng)
    return canvas


def _scrap(wardrobe: Wardrobe, rng: np.random.Generator) -> Canvas:
    """A piece of clutter: a square cut out of any garment, without the outline that would identify its class."""
    garment = wardrobe.all[rng.integers(len(wardrobe.all))]
    top, left = rng.integers(4, 16, 2)
    scrap: Canvas = garment[top : top + 8, left : left + 8]
    return scrap


def _paste(piece: Canvas, sizes: tuple[int, int], canvas: Canvas, rng: np.random.Generator) -> None:
    size, aspect, contrast, top, left, mirrored = rng.random(6)
    side = sizes[0] * (sizes[1] / sizes[0]) ** size  # log-uniform: halving and doubling the size are equally likely
    aspect = 0.8 + 0.45 * aspect
    height, width = max(2, round(side * aspect**0.5)), max(2, round(side / aspect**0.5))
    picture = Image.fromarray(piece[:, ::-1] if mirrored < 0.5 else piece).resize((width, height), Image.Resampling.BOX)
    bright = np.asarray(picture).astype(np.float32)
    alpha = np.minimum(bright * (1 / OPAQUE), 1)
    bright *= CONTRAST[0] + contrast * (CONTRAST[1] - CONTRAST[0])
    row, column = int(top * (CANVAS_SIZE - height + 1)), int(left * (CANVAS_SIZE - width + 1))
    below = canvas[row : row + height, column : column + width]
    below[...] = below + alpha * (bright - below)
