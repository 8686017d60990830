"""The images that a command line names: files, folders of files, and standard input."""

import sys
from pathlib import Path

from hangtag.errors import UserError
from hangtag.serving.image_spec import SUFFIXES

STANDARD_INPUT = Path("-")


def expand(path: Path) -> list[Path]:
    """Return the path, or for a folder the images in it and in its folders, such as those of classes, by name.

    Raises:
        UserError: the folder holds no image, or cannot be read.
    """
    if path == STANDARD_INPUT or not path.is_dir():
        return [path]
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not images:
        raise UserError(f"{path} holds no image that can be read; expected files that end in {', '.join(SUFFIXES)}")
    return images


def read(path: Path) -> bytes:
    """Return an image's bytes. The server finds out whether they are a PNG, JPEG or WebP file.

    Raises:
        OSError: the file cannot be read.
        UserError: it is empty.
    """
    data = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    if not data:
        raise UserError("nothing came on standard input" if path == STANDARD_INPUT else "the file is empty (0 bytes)")
    return data
