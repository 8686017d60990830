"""The images that a command line names: files, folders of files, and standard input."""

import io
import re
import sys
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from hangtag.errors import UserError

STANDARD_INPUT = Path("-")
_SENT = (".png", ".jpg", ".jpeg", ".webp")
_CONVERTED = (".bmp", ".gif", ".tif", ".tiff")
_BEGINNING_OF_SENT = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
_BEGINNING_OF_CONVERTED = re.compile(rb"BM|GIF8|II\*\0|MM\0\*")


def expand(path: Path) -> list[Path]:
    """Return the path, or for a folder the images in it, by name.

    Raises:
        UserError: the folder holds no image, or cannot be read.
    """
    if path == STANDARD_INPUT or not path.is_dir():
        return [path]
    try:
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in _SENT + _CONVERTED)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not images:
        raise UserError(f"{path} holds no image; expected files that end in {', '.join(_SENT + _CONVERTED)}")
    return images


def read(path: Path) -> bytes:
    """Return an image's bytes as the server takes them: BMP, GIF (its first frame) and TIFF become PNG.

    Raises:
        OSError: the file cannot be read.
        UserError: it is empty, has another format, or is to be converted and damaged. The server finds out whether a
            PNG, JPEG or WebP file is.
    """
    data = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    if not data:
        raise UserError("nothing came on standard input" if path == STANDARD_INPUT else "the file is empty (0 bytes)")
    if _BEGINNING_OF_SENT.match(data):
        return data
    if not _BEGINNING_OF_CONVERTED.match(data):
        raise UserError("this is not a PNG, JPEG, WebP, BMP, GIF or TIFF image; convert it to one of them")
    try:
        with Image.open(io.BytesIO(data), formats=("BMP", "GIF", "TIFF")) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
                upright = upright.convert("RGB")
            png = io.BytesIO()
            upright.save(png, "PNG")
    except UnidentifiedImageError:
        raise UserError("the image cannot be decoded and seems damaged: its header is wrong") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise UserError(f"the image cannot be decoded and seems damaged: {error}") from error
    return png.getvalue()
