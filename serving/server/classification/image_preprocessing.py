"""Converts an image file to a classifier's input: 8-bit grey pixels, bright garments on black.

An image that has the model's size already is used unchanged. For a model of several garments, any other image is
scaled down as a whole (``_fit_whole``), because the garments' places and relative sizes matter. For a model of one
garment it is converted as the authors of Fashion-MNIST converted theirs (``_convert_garment``; Xiao, Rasul, Vollgraf:
Fashion-MNIST, 2017, figure 1): trim to the garment, subsample the longest edge to the model's size, sharpen, centre on
a square, negate, grey. The authors began with shop thumbnails 73 pixels high, so a larger photo is first scaled down to
that.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError

MAX_PIXELS = 50_000_000
"""An image with more pixels is refused before it is decompressed, because a small file can hold a huge image."""

MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS
"""Most pixels of all images that are decoded at the same time, at up to ten bytes each; further images wait."""

TURN_SECONDS = 10.0
"""How long an image waits for its turn before it is refused."""

# Image.open would check the size against Image.MAX_IMAGE_PIXELS, which belongs to the whole program, is looser than
# MAX_PIXELS and is a warning as often as an error. These read the header, and decode when they are asked to load.
_READERS = (PngImageFile, JpegImageFile, WebPImageFile)

_THUMBNAIL_EDGE = 73
_BACKGROUND_TOLERANCE = 0.05 * 255  # the authors' 5 % of the maximum intensity

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, height: int, width: int, *, whole: bool = False) -> Pixels:
    """Decode a PNG, JPEG or WebP file and convert it to a model's input.

    Args:
        data: The file's content.
        height: Of the model's input, in pixels.
        width: Of the model's input, in pixels.
        whole: Keep the whole image, for a model of several garments, instead of trimming it to one garment.

    Returns:
        UINT8 [height, width].

    Raises:
        InvalidRequestError: The file has another format, is damaged, or has more than MAX_PIXELS.
        QueueFullError: Too many large images are being decoded.
    """
    try:
        with _open(data) as image:
            _require_size(image)
            with _reserve(image.width * image.height):
                grey = _grey(ImageOps.exif_transpose(image))
                grey.load()
    except ServerError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise InvalidRequestError(f"the image cannot be decoded: {error}") from error
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


def _open(data: bytes) -> Image.Image:
    """Read the header only, which has the size; nothing is decoded yet."""
    for reader in _READERS:
        try:
            return reader(io.BytesIO(data))
        except SyntaxError:  # how Pillow says that the file has another format
            continue
    raise InvalidRequestError("the image is not a PNG, JPEG or WebP file; for bare pixels use `raw`")


def _require_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidRequestError(
            f"the image has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are taken. Scale it down."
        )


class _Budget:
    """The pixels that may still be decoded now, of MAX_PIXELS_AT_ONCE."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.left = MAX_PIXELS_AT_ONCE


_budget = _Budget()


@contextmanager
def _reserve(pixels: int) -> Iterator[None]:
    """Wait until this many pixels are within the budget, and hold them while the image is decoded."""
    with _budget.changed:
        if not _budget.changed.wait_for(lambda: _budget.left >= pixels, TURN_SECONDS):
            raise QueueFullError(
                f"too many large images at once: at most {MAX_PIXELS_AT_ONCE:,} pixels are decoded together; try again "
                "later with a back-off, or scale the image down"
            )
        _budget.left -= pixels
    try:
        yield
    finally:
        with _budget.changed:
            _budget.left += pixels
            _budget.changed.notify_all()


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")  # the background of shop photos
        image = Image.alpha_composite(white, transparent)
    return image.convert("L")


def _trim(pixels: Pixels, background: float) -> Pixels:
    differs = np.abs(pixels.astype(np.float32) - background) > _BACKGROUND_TOLERANCE
    if not differs.any():
        return pixels
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
