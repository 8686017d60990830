"""Converts an image file to a classifier's input: 8-bit grey pixels, bright garments on black.

An image that has the model's size already is used unchanged. For a model of several garments, any other image is
scaled down as a whole (``_fit_whole``), because the garments' places and relative sizes matter. For a model of one
garment it is converted as the authors of Fashion-MNIST converted theirs (``_convert_garment``; Xiao, Rasul, Vollgraf:
Fashion-MNIST, 2017, figure 1): trim to the garment, subsample the longest edge to the model's size, sharpen, centre on
a square, negate, grey. The authors began with shop thumbnails 73 pixels high, so a larger photo is first scaled down to
that.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from hangtag.serving.server.classification.image_decoding import decoded_grey

_THUMBNAIL_EDGE = 73
_BACKGROUND_TOLERANCE = 0.05 * 255  # the authors' 5 % of the maximum intensity

Pixels = npt.NDArray[np.uint8]


def preprocess(data: bytes, height: int, width: int, *, whole: bool = False) -> Pixels:
    """Decode a PNG, JPEG or WebP file and convert it to a model's input.

    Args:
        data: The file's content.
        height: Of the model's input, in pixels.
        width: Of the model's input, in pixels.
        whole: Keep the whole image, for a model of several garments, instead of trimming it to one garment.

    Returns:
        UINT8 [height, width].

    Raises:
        InvalidRequestError: The file is empty, has another format, is damaged, or is larger than an image may be.
        QueueFullError: Too many large images are being decoded.
    """
    with decoded_grey(data) as grey:
        if grey.size == (width, height):
            return np.asarray(grey)
        return _fit_whole(grey, height, width) if whole else _convert_garment(grey, height, width)


def _convert_garment(grey: Image.Image, height: int, width: int) -> Pixels:
    """Trim to the garment and scale it to the edges of the input, as the authors of the data set did."""
    grey.thumbnail((_THUMBNAIL_EDGE, _THUMBNAIL_EDGE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    background = float(np.median([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]]))
    garment = Image.fromarray(_trim(pixels, background))
    scale = min(height / garment.height, width / garment.width)
    size = (max(1, round(garment.width * scale)), max(1, round(garment.height * scale)))
    garment = garment.resize(size, Image.Resampling.NEAREST)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    return _centre(garment, background, height, width)


def _fit_whole(grey: Image.Image, height: int, width: int) -> Pixels:
    """Scale down the whole image until it fits. It is never enlarged: a garment of 28 pixels keeps its 28 pixels."""
    grey.thumbnail((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    # The median of the whole edge, not of the corners, because garments may cover one or two corners.
    background = float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))
    return _centre(grey, background, height, width)


def _centre(picture: Image.Image, background: float, height: int, width: int) -> Pixels:
    canvas = Image.new("L", (width, height), round(background))
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    result = np.asarray(canvas)
    # The authors' photos have a white background, so they negate. An image with a dark background keeps its tones.
    return 255 - result if background > 127 else result


def _trim(pixels: Pixels, background: float) -> Pixels:
    differs = np.abs(pixels.astype(np.float32) - background) > _BACKGROUND_TOLERANCE
    if not differs.any():
        return pixels
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
