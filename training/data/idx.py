"""Reads images and labels in the IDX format of MNIST, of any size, in grey or in colour."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.training.data.listing import Listing, Picture
from hangtag.training.errors import DataCorruptError, DataNotFoundError

_UNSIGNED_BYTES = 8
_OTHER_KINDS = {
    9: "signed bytes", 11: "16-bit numbers", 12: "32-bit numbers", 13: "floating-point numbers", 14: "64-bit doubles",
}  # fmt: skip


def listed(root: Path) -> Listing:
    """Read a folder with four files.

    Labels are numbers, which give their order. The lines of a file ``labels.txt`` name them; without it they name
    themselves.

    Args:
        root: Has train-images, train-labels, t10k-images and t10k-labels, each with -idx3-ubyte or -idx1-ubyte, and
            with .gz or without. They may be named test in place of t10k.

    Raises:
        DataNotFoundError: A file is missing.
        DataCorruptError: A file is no IDX file of bytes, or images and labels do not fit together.
    """
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is no folder. Name one with four IDX files.")
    arrays = {}
    for split, file in (("train", "train"), ("test", "t10k")):
        images, classes = _read(_find(root, f"{file}-images*-ubyte")), _read(_find(root, f"{file}-labels*-ubyte"))
        is_grey_or_colour = images.ndim >= 3 and images.shape[3:] in ((), (3,))
        if not is_grey_or_colour or classes.shape != images.shape[:1] or not images.size:
            raise DataCorruptError(
                f"{root}: the {split} images have the shape {list(images.shape)} and their labels "
                f"{list(classes.shape)}; there must be [n, height, width] or [n, height, width, 3], and [n], and none "
                "may be 0."
            )
        arrays[split] = images, classes
    present = sorted({number for _, classes in arrays.values() for number in np.unique(classes).tolist()})
    labels = _labels(root, present[-1] + 1)
    pictures = [
        Picture(root, f"{split} {index}", labels[number], split, image)
        for split, (images, classes) in arrays.items()
        for index, (image, number) in enumerate(zip(images, classes.tolist(), strict=True))
    ]
    return Listing(pictures, tuple(labels[number] for number in present), [])


def _labels(root: Path, count: int) -> tuple[str, ...]:
    file = root / "labels.txt"
    if not file.is_file():
        return tuple(map(str, range(count)))
    labels = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(labels) < count or len(set(labels)) < len(labels):
        raise DataCorruptError(f"{file} must name {count} or more labels, each once; it has {len(labels)} lines.")
    return labels


def _find(root: Path, pattern: str) -> Path:
    patterns = [name + end for name in (pattern, pattern.replace("t10k", "test")) for end in (".gz", "")]
    found = [file for each in patterns for file in sorted(root.glob(each))]
    if not found:
        raise DataNotFoundError(f"{root} has no file {pattern.replace('*', '-idx?')}, nor one with .gz.")
    return found[0]


def _read(file: Path) -> npt.NDArray[np.uint8]:
    """The format: two zeros, 8 for unsigned bytes, the number of axes, each length in four bytes, the values.

    Source: yann.lecun.com/exdb/mnist.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zero, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataCorruptError(f"{file} cannot be read as an IDX file ({error}).") from error
    start = 4 + 4 * axes
    if zero == 0 and kind in _OTHER_KINDS:
        raise DataCorruptError(f"{file} holds {_OTHER_KINDS[kind]}; hangtag reads unsigned bytes alone. Convert them.")
    if (zero, kind) != (0, _UNSIGNED_BYTES) or len(content) - start != math.prod(shape):
        raise DataCorruptError(f"{file} is no IDX file: its header does not fit its contents.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
