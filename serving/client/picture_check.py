"""Warn of pictures that a model of garments cannot classify well: blank ones, and inverted ones.

Models whose file says fit garment learned bright garments on black. Both rules were measured on Fashion-MNIST's test
set: they warn of none of its 10,000 images, neither as they are nor as larger pictures on white or black, which the
server converts; of its 10,000 images negated they warn of all. tests/serving/client repeats that with every hundredth
image.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from hangtag.serving.image_spec import ImageSpec, flattened

LEAST_CONTRAST = 32
"""In grey levels between a picture's darkest and brightest pixel. Every image of the test set has at least 254."""

_THUMBNAIL = 73  # the server's
_MARGIN = 1 / 7
_TOLERANCE = 0.05 * 255  # what the server takes for the background's tone when it trims a picture

_BLANK = "the picture is nearly blank, so the label says little: is the garment in it, and is it the right file?"
_INVERTED = (
    "the picture seems inverted: the model expects a bright garment on black, and a picture of {} x {} pixels is "
    "used as it is. Invert its tones, or send it larger, for the server to convert it"
)
_CONVERTED = (
    "the background seems to reach the model brighter than the garment, and it expects the opposite: a dark garment on "
    "white paper (which the server negates), or a bright one on black, in even light, works best"
)


def warning(data: bytes, image: ImageSpec) -> str:
    """Say what is wrong with a picture and what helps; "" where nothing is, and for a model that takes other pictures.

    Args:
        data: The content of an image file; the server reports one that cannot be decoded.
        image: What the model takes.
    """
    if image.fit != "garment":
        return ""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("L", (2 * _THUMBNAIL, 2 * _THUMBNAIL))  # lets a JPEG be decoded at a fraction of its size
            grey = flattened(ImageOps.exif_transpose(picture), 1)
    except Exception:  # Pillow's decoders raise whatever a broken file makes them raise
        return ""
    used_as_it_is = grey.size == (image.width, image.height)
    grey.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)  # averages a camera's noise away
    pixels = np.asarray(grey, np.float32)
    if pixels.max() - pixels.min() < LEAST_CONTRAST:
        return _BLANK
    if used_as_it_is:
        return _INVERTED.format(image.width, image.height) if _background_is_brighter(pixels, 0) else ""
    corners = np.median([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]])
    seen = 255 - pixels if corners > 127 else pixels  # as the server does
    return _CONVERTED if _background_is_brighter(seen, _TOLERANCE) else ""


def _background_is_brighter(pixels: npt.NDArray[np.float32], tolerance: float) -> bool:
    """Whether the median of a picture's edge is above the mean of its inner part."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    rows, columns = (round(length * _MARGIN) for length in pixels.shape)
    inner = pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]
    return bool(np.median(edge) > inner.mean() + tolerance)
