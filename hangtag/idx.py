"""Reads images of any size, in grey or in colour, and labels from files in the IDX format of MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.errors import DataCorruptError, DataNotFoundError, reason
from hangtag.listing import Listing, Picture

_DATATYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""The third byte of an IDX file -> NumPy's name of the values' datatype."""


def listed(root: Path) -> Listing:
    """List the images of a folder with four IDX files: the images and labels for training and for the test.

    The files are named train-images, train-labels, t10k-images and t10k-labels, followed by -idx3-ubyte or -idx1-ubyte,
    and optionally by .gz. A name may begin with test instead of t10k. The labels are the numbers in the IDX files, in
    ascending order.

    Raises:
        DataNotFoundError: A file is missing.
        DataCorruptError: A file is not an IDX file of bytes, or the numbers of images and labels differ.
    """
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Name a folder with four IDX files.")
    arrays = {}
    for split, file in (("train", "train"), ("test", "t10k")):
        paths = [_find(root, f"{file}-{kind}*-ubyte") for kind in ("images", "labels")]
        images, classes = (parsed(unpacked(path), path) for path in paths)
        is_grey_or_colour = images.ndim >= 3 and images.shape[3:] in ((), (3,))
        if not is_grey_or_colour or classes.shape != images.shape[:1] or not images.size:
            raise DataCorruptError(
                f"{root}: the {split} images have the shape {list(images.shape)} and their labels "
                f"{list(classes.shape)}; images must be [n, height, width] or [n, height, width, 3], labels [n], and "
                "no size may be 0."
            )
        arrays[split] = images, classes
    present = sorted({number for _, classes in arrays.values() for number in np.unique(classes).tolist()})
    pictures = [
        Picture(root, f"{split} {index}", str(number), split, image)
        for split, (images, classes) in arrays.items()
        for index, (image, number) in enumerate(zip(images, classes.tolist(), strict=True))
    ]
    return Listing(pictures, tuple(map(str, present)), [])


def _find(root: Path, pattern: str) -> Path:
    patterns = [name + end for name in (pattern, pattern.replace("t10k", "test")) for end in (".gz", "")]
    found = [file for each in patterns for file in sorted(root.glob(each))]
    if not found:
        raise DataNotFoundError(
            f"{root} has no file {pattern.replace('*', '-idx?')}, with or without .gz. Rename the files."
        )
    return found[0]


def unpacked(file: Path, advice: str = "Copy it again.") -> bytes:
    """Return a file's bytes, decompressed if its name ends in .gz. If the file cannot be read, raise a DataCorruptError
    that ends with the advice."""
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        why = reason(error) if isinstance(error, OSError) and error.errno else "it is not a gzip file, or is cut off"
        raise DataCorruptError(f"{file} cannot be read ({why}). {advice}") from error


def parsed(content: bytes, file: Path) -> npt.NDArray[np.uint8]:
    """Return the values in the content of an IDX file: whole numbers from 0 to 255, which may have any datatype. For
    other content, raise a DataCorruptError that names the file.

    An IDX file has two zero bytes, a byte for the datatype, a byte with the number of axes, the length of each axis in
    four bytes, and then the values. Source: yann.lecun.com/exdb/mnist.
    """
    start = 4 + 4 * (content[3] if len(content) > 3 else 0)
    if content[:2] != bytes(2) or len(content) < start or content[2] not in _DATATYPES:
        raise DataCorruptError(
            f"{file} is not an IDX file, which begins with the bytes 0, 0, a datatype (8 to 14) and the number of axes."
        )
    datatype = np.dtype(_DATATYPES[content[2]])
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if len(content) - start != math.prod(shape) * datatype.itemsize:
        raise DataCorruptError(
            f"{file} has {len(content) - start:,} bytes after its header, which announces "
            f"{' x '.join(map(str, shape))} values: it is cut off, or is not an IDX file. Copy it again."
        )
    values = np.frombuffer(content, datatype, offset=start).reshape(shape)
    with np.errstate(invalid="ignore"):  # NaN
        whole = values.astype(np.uint8)
    if (whole != values).any():
        raise DataCorruptError(
            f"{file} has values from {values.min():g} to {values.max():g}. Convert them to whole numbers from 0 to 255."
        )
    return whole
