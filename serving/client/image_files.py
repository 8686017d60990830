"""The images that a command line names: files, folders of files, and standard input."""

import io
import sys
from pathlib import Path

from PIL import Image, ImageOps

from hangtag.errors import UserError

STANDARD_INPUT = Path("-")
_SENT = (".png", ".jpg", ".jpeg", ".webp")
_CONVERTED = (".bmp", ".gif", ".tif", ".tiff")
_MAGIC_OF_CONVERTED = (b"BM", b"GIF8", b"II*\0", b"MM\0*")


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
        UserError: a file to convert is damaged.
    """
    data = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    if not data.startswith(_MAGIC_OF_CONVERTED):
        return data
    try:
        with Image.open(io.BytesIO(data), formats=("BMP", "GIF", "TIFF")) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
                upright = upright.convert("RGB")
            png = io.BytesIO()
            upright.save(png, "PNG")
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise UserError(f"the image cannot be decoded: {error}") from error
    return png.getvalue()
