"""Reads images and labels in the IDX format of MNIST, of any size."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Dataset, Split
from hangtag.training.errors import DataCorruptError, DataNotFoundError

_UNSIGNED_BYTES = 8
_NAMES = {
    ("train", "images"): "train-images*-ubyte",
    ("train", "classes"): "train-labels*-ubyte",
    ("test", "images"): "t10k-images*-ubyte",
    ("test", "classes"): "t10k-labels*-ubyte",
}
"""Of the files, with .gz or without. Where they say ``test`` in place of ``t10k``, that is taken too."""


def load(root: Path, validation_share: float = 0.1, seed: int = 0) -> Dataset:
    """Read a folder with four files, and take a validation split from the training images, class by class.

    Labels are numbers; they are named by the lines of a file ``labels.txt``, or by themselves.

    Args:
        root: Has train-images, train-labels, t10k-images and t10k-labels, each with -idx3-ubyte or -idx1-ubyte.
        validation_share: Of each class's training images, between 0 and 1.
        seed: Decides which of them.

    Raises:
        DataNotFoundError: A file is missing.
        DataCorruptError: A file is no IDX file of bytes, images and labels do not fit together, or a class has too few
            images.
    """
    arrays = {key: _read(_find(root, pattern)) for key, pattern in _NAMES.items()}
    digest = hashlib.sha256(f"{validation_share} {seed}".encode())
    for (split, kind), values in arrays.items():
        digest.update(f"{values.shape}".encode() + values.tobytes())
        fits = values.ndim == (3 if kind == "images" else 1) and len(values) == len(arrays[split, "images"])
        if not fits or not values.size:
            shapes = {part: list(arrays[split, part].shape) for part in ("images", "classes")}
            raise DataCorruptError(
                f"{root}: the {split} images have the shape {shapes['images']} and their labels {shapes['classes']}; "
                "there must be [n, height, width] and [n], and none may be 0."
            )
    images, classes = arrays["train", "images"], arrays["train", "classes"]
    if images.shape[1:] != arrays["test", "images"].shape[1:]:
        raise DataCorruptError(f"{root}: training and test images have different sizes.")
    if len(np.unique(classes)) < 2:
        raise DataCorruptError(
            f"{root}: all {len(classes)} training images have the label {classes[0]}, and a classifier needs two at "
            "least."
        )
    labels = _labels(root, int(max(classes.max(), arrays["test", "classes"].max())) + 1)
    digest.update("\0".join(labels).encode())
    validates = _chosen(classes, validation_share, seed)
    return Dataset(
        name=f"idx:{root}",
        labels=labels,
        image=ImageSpec(height=images.shape[1], width=images.shape[2]),
        train=Split(images[~validates], classes[~validates]),
        validation=Split(images[validates], classes[validates]),
        test=Split(arrays["test", "images"], arrays["test", "classes"]),
        source=str(root),
        digest=digest.hexdigest(),
    )


def _chosen(classes: npt.NDArray[np.uint8], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which images validate, [n]: a share of each class, and at least one."""
    chosen = np.zeros(len(classes), np.bool_)
    for label in np.unique(classes).tolist():
        own = np.flatnonzero(classes == label)
        if len(own) < 2:
            raise DataCorruptError(f"the label {label} has {len(own)} training image, and needs two at least.")
        count = min(max(1, round(share * len(own))), len(own) - 1)
        chosen[np.random.default_rng((seed, label)).permutation(own)[:count]] = True
    return chosen


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
    if (zero, kind) != (0, _UNSIGNED_BYTES) or len(content) - start != math.prod(shape):
        raise DataCorruptError(f"{file} is no IDX file of bytes: its header does not fit its contents.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
