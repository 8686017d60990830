"""Writes a user's own pictures: folders of PNG files, a CSV file that names the pictures, and IDX files."""

import gzip
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def noise(seed: int, shape: tuple[int, ...] = (9, 8), brightness: int = 255) -> Pixels:
    """A picture that is different for each seed, with all pixels below ``brightness``."""
    return np.random.default_rng(seed).integers(0, brightness, shape, dtype=np.uint8)


def write(file: Path, pixels: Pixels) -> Path:
    """Write a picture, and create its folder if necessary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def folder(root: Path, counts: Mapping[str, int], shape: tuple[int, ...] = (9, 8), *, first: int = 0) -> Path:
    """Write this many pictures of each class to ``root/CLASS/NUMBER.png``. Returns ``root``.

    Each class is darker than the next class, so that networks can distinguish the classes.

    Args:
        root: The folder to create.
        counts: The number of pictures by class. A class's name may begin with the folder of a split, as in train/cats.
        shape: The shape of each picture, (height, width) or (height, width, 3).
        first: The seed of the first picture.
    """
    for place, (name, count) in enumerate(counts.items()):
        for index in range(count):
            pixels = noise(first + 10_000 * place + index, shape, 255 * (place + 1) // len(counts))
            write(root / name / f"{index:03}.png", pixels)
    return root


def csv(file: Path, rows: Iterable[Iterable[str]], header: str = "path,label") -> Path:
    file.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return file


def idx(root: Path, train: int = 40, test: int = 12, size: tuple[int, ...] = (9, 8), *, zipped: bool = True) -> Path:
    """Write the four IDX files of a data set whose images alternate between two labels. Returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 2
        pictures = [noise(len(name) * 1_000 + index, size, 127 * (1 + index % 2)) for index in range(count)]
        write_idx(root / f"{name}-images-idx3-ubyte", np.stack(pictures), zipped=zipped)
        write_idx(root / f"{name}-labels-idx1-ubyte", labels.astype(np.uint8), zipped=zipped)
    return root


def write_idx(file: Path, values: npt.NDArray[Any], *, zipped: bool = False, kind: int = 8) -> None:
    """Write an array in MNIST's format, compressed and named .gz if ``zipped``; ``kind`` 8 means bytes."""
    content = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape) + values.tobytes()
    if zipped:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)
