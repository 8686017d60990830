"""An image file -> pixels as the models know them: 8-bit grey, bright garments on black.

A picture that already has the model's size is taken as it is. Any other is converted. For a model that looks for
several garments it is reduced as a whole (``reduce``): where they lie, and how large they are to one another, is part
of the picture. For a model of one garment it goes the way of the data set's own pictures (``convert``)
(Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, figure 1): trim to the garment, subsample the longest edge to the model's
size, sharpen, centre on a square, negate, grey. The authors began with shop thumbnails 73 pixels high, so a larger
photo is reduced to that first.
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
"""A picture that unpacks to more is refused before it is unpacked: a small file can hold a huge one."""

MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS
"""Of all pictures that are being unpacked; each pixel takes up to ten bytes meanwhile. More wait for their turn."""
TURN_SECONDS = 10.0

# Image.open would check the size against Image.MAX_IMAGE_PIXELS, which belongs to the whole program, is looser than
# MAX_PIXELS and is a warning as often as an error. These read the header, and decode when they are asked to load.
_READERS = (PngImageFile, JpegImageFile, WebPImageFile)

_THUMBNAIL_EDGE = 73
_BACKGROUND_TOLERANCE = 0.05 * 255  # the authors' 5 % of the maximum intensity

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, height: int, width: int, *, whole: bool = False) -> Pixels:
    """Pixels [height, width] of a PNG, JPEG or WebP file: of one garment, or of the ``whole`` picture.

    Raises InvalidRequestError for anything else, and QueueFullError when too many large pictures are being unpacked.
    """
    try:
        with _open(data) as image:
            _refuse_bomb(image)
            with _unpacking(image.width * image.height):
                grey = _grey(ImageOps.exif_transpose(image))
                grey.load()
    except ServerError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise InvalidRequestError(f"the image cannot be decoded: {error}") from error
    if grey.size == (width, height):
        return np.asarray(grey)
    return reduce(grey, height, width) if whole else convert(grey, height, width)


def convert(grey: Image.Image, height: int, width: int) -> Pixels:
    """The picture of one garment, as the data set's authors made theirs."""
    grey.thumbnail((_THUMBNAIL_EDGE, _THUMBNAIL_EDGE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    background = float(np.median([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]]))
    garment = Image.fromarray(_trim(pixels, background))
    scale = min(height / garment.height, width / garment.width)
    size = (max(1, round(garment.width * scale)), max(1, round(garment.height * scale)))
    garment = garment.resize(size, Image.Resampling.NEAREST)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    return _centre(garment, background, height, width)


def reduce(grey: Image.Image, height: int, width: int) -> Pixels:
    """The whole picture, as large as it fits but never enlarged: a garment of 28 pixels is one of 28 here too."""
    grey.thumbnail((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    # Of the whole edge, not of the corners: garments may lie in one or two of those.
    background = float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))
    return _centre(grey, background, height, width)


def _centre(picture: Image.Image, background: float, height: int, width: int) -> Pixels:
    canvas = Image.new("L", (width, height), round(background))
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    result = np.asarray(canvas)
    # The authors' photos have a white background, so they negate; a picture that is dark already keeps its tones.
    return 255 - result if background > 127 else result


def _open(data: bytes) -> Image.Image:
    """The image, with its size known and nothing decoded yet."""
    for reader in _READERS:
        try:
            return reader(io.BytesIO(data))
        except SyntaxError:  # how Pillow says that the file has another format
            continue
    raise InvalidRequestError("the image is not a PNG, JPEG or WebP file; for bare pixels use `raw`")


def _refuse_bomb(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidRequestError(
            f"the image has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are taken. Scale it down."
        )


class _Budget:
    """Pixels that may be unpacked now."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.left = MAX_PIXELS_AT_ONCE


_budget = _Budget()


@contextmanager
def _unpacking(pixels: int) -> Iterator[None]:
    """Inside it the memory for so many pixels is this picture's."""
    with _budget.changed:
        if not _budget.changed.wait_for(lambda: _budget.left >= pixels, TURN_SECONDS):
            raise QueueFullError(
                f"too many large pictures at once: {MAX_PIXELS_AT_ONCE:,} pixels are unpacked together; try again "
                "later with a back-off, or scale the picture down"
            )
        _budget.left -= pixels
    try:
        yield
    finally:
        with _budget.changed:
            _budget.left += pixels
            _budget.changed.notify_all()


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255 instead of scaling them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        cut_out = image.convert("RGBA")
        white = Image.new("RGBA", cut_out.size, "white")  # a cut-out lies on white, as in a shop
        image = Image.alpha_composite(white, cut_out)
    return image.convert("L")


def _trim(pixels: Pixels, background: float) -> Pixels:
    differs = np.abs(pixels.astype(np.float32) - background) > _BACKGROUND_TOLERANCE
    if not differs.any():
        return pixels
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
