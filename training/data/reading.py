"""Opens and decodes the user's own pictures, and keeps account of those that cannot be read."""

import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hangtag.printable import counted, named
from hangtag.serving import image_spec
from hangtag.serving.image_spec import ImageSpec, PictureError, Pixels
from hangtag.training.data import idx, listing
from hangtag.training.data.dataset import Images
from hangtag.training.data.fashion_mnist import cache_dir
from hangtag.training.data.listing import Picture
from hangtag.training.errors import DataCorruptError

MEMORY_BYTES = 2 << 30
"""Prepared pictures of up to this size are held in memory; more of them in a file of the cache, which is mapped."""
MOST_PIXELS = 100_000_000
"""Of one picture: a small file can hold a huge one."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SHOWN = 10_000
"""After each so many pictures standard error gets a line, since a large folder takes minutes."""

T = TypeVar("T")
R = TypeVar("R")


class Source:
    """The pictures that a source names, as far as they can be read.

    Attributes:
        pictures: In the order in which they count for the digest.
        labels: Those that they have, in their order.
    """

    def __init__(self, name: str, known: Sequence[str] | None = None) -> None:
        """List them, and read their headers and digests.

        Args:
            name: ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``.
            known: The labels that they may have; None for any.

        Raises:
            DataNotFoundError: A file or a folder is missing.
            DataCorruptError: The source is malformed, has other labels, or no picture of a class can be read.
        """
        kind, _, place = name.partition(":")
        listed = idx.listed(Path(place)) if kind == "idx" else listing.listed(name)
        if known is not None and (unknown := sorted(set(listed.labels) - set(map(listing.normal, known)))):
            raise DataCorruptError(
                f"{name} has the classes {named(unknown)}, which are none of the model's labels {named(list(known))}. "
                "Name the folders, or the column label, as the labels are named."
            )
        self.labels, self._notes = listed.labels, listed.notes
        self._unreadable: list[str] = []
        self.pictures = self._readable(_in_threads(_opened, listed.pictures, "opened"))

    @property
    def notes(self) -> Iterator[str]:
        """Sentences about what was left out."""
        if self._unreadable:
            count = counted(len(self._unreadable), "picture", "pictures")
            yield f"Left out {count} that cannot be read: {named(sorted(self._unreadable))}."
        yield from self._notes

    def drop(self, broken: Mapping[str, str]) -> None:
        """Leave out pictures that could not be decoded.

        Args:
            broken: The reason, by the digest of the content.

        Raises:
            DataCorruptError: No picture of a class can be read.
        """
        self.pictures = self._readable(
            f"{picture.name} ({broken[picture.digest]})" if picture.digest in broken else picture
            for picture in self.pictures
        )

    def _readable(self, outcomes: Iterable[Picture | str]) -> list[Picture]:
        """The outcomes that are pictures; the others are names of those that cannot be read, with the reason."""
        kept: list[Picture] = []
        for outcome in outcomes:
            if isinstance(outcome, str):
                self._unreadable.append(outcome)
            else:
                kept.append(outcome)
        if not kept:
            count = counted(len(self._unreadable), "picture", "pictures")
            raise DataCorruptError(f"none of {count} can be read; the first is {self._unreadable[0]}.")
        if lost := set(self.labels) - {picture.label for picture in kept}:
            raise DataCorruptError(
                f"no picture of {named(sorted(lost))} can be read; {len(self._unreadable)} cannot, such as "
                f"{self._unreadable[0]}. Replace them, or leave the class out."
            )
        return kept


def images_of(
    pictures: Sequence[Picture], image: ImageSpec, memory_bytes: int = MEMORY_BYTES
) -> tuple[Images, Mapping[str, str]]:
    """Decode pictures and prepare them, in memory, or in a file of the cache, which is written if it is not there.

    Returns:
        The images [n, ...]; and why pictures cannot be decoded, by the digest of their content, which shows only now of
        a file that is cut off. Then the caller has to choose among the others again.
    """
    broken: dict[str, str] = {}

    def fill(images: Images) -> None:
        outcomes = _in_threads(lambda picture: _pixels(picture, image), pictures, "prepared")
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                broken[pictures[index].digest] = outcome
            else:
                images[index] = outcome

    shape = (len(pictures), *image.shape)
    if math.prod(shape) <= memory_bytes:
        images: Images = np.empty(shape, np.uint8)
        fill(images)
    else:
        contents = hashlib.sha256("".join(picture.digest for picture in pictures).encode()).hexdigest()
        form = f"{'x'.join(map(str, image.shape))}-{image.fit}"
        images = _mapped(cache_dir() / "pictures" / f"{contents[:16]}-{form}.npy", shape, fill, broken)
    return images, broken


def prepared(file: Path, image: ImageSpec) -> Pixels:
    """A picture's pixels as a model takes them.

    Raises:
        DataCorruptError: It cannot be read.
    """
    try:
        return image.read(file)
    except PictureError as error:
        raise DataCorruptError(f"{file} cannot be read as a picture ({error}).") from error


def _opened(picture: Picture) -> Picture | str:
    """The picture with what its header says; or its name and, in brackets, why it cannot be read."""
    if (pixels := picture.pixels) is not None:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return replace(picture, digest=digest, size=pixels.shape[:2], grey=pixels.ndim == 2)
    try:
        digest = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        with image_spec.opened(picture.path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                edges = f"{opened.width} x {opened.height}"
                return f"{picture.name} (it has {edges} pixels; at most {MOST_PIXELS:,} can be read)"
            size = image_spec.upright_size(opened)
            return replace(picture, digest=digest, size=size, grey=opened.mode in _GREY_MODES)
    except (OSError, PictureError) as error:
        return f"{picture.name} ({error})"


def _pixels(picture: Picture, image: ImageSpec) -> Pixels | str:
    """The picture as a model takes it; or why it cannot be read."""
    if picture.pixels is not None:
        return image.prepare(image_spec.flattened(Image.fromarray(picture.pixels), image.channels))
    try:
        return image.read(picture.path)
    except PictureError as error:
        return str(error)


def _mapped(file: Path, shape: tuple[int, ...], fill: Callable[[Images], None], broken: Mapping[str, str]) -> Images:
    """The images in a file, which is filled if it is not there, and kept if none of the pictures is broken."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        written = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        fill(written)
        if broken:
            temporary.unlink()
            return written
        written.flush()
        temporary.replace(file)
    kept: Images = np.load(file, mmap_mode="c")  # writable, as torch wants it; nothing is written
    return kept


def _in_threads(work: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        for done, result in enumerate(executor.map(work, items), 1):
            if done % _SHOWN == 0:
                sys.stderr.write(f"{what} {done:,} of {len(items):,} pictures\n")
            yield result
