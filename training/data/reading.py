"""Opens and decodes the user's own pictures, and records which pictures cannot be read."""

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

from hangtag import idx, listing
from hangtag.errors import reason
from hangtag.listing import Picture
from hangtag.printable import counted, named
from hangtag.serving import image_spec
from hangtag.serving.image_spec import ImageSpec, PictureError, Pixels
from hangtag.training.data.dataset import Images
from hangtag.training.data.fashion_mnist import cache_dir
from hangtag.training.errors import DataCorruptError

MEMORY_BYTES = 2 << 30
"""The largest size of prepared pictures that are kept in memory. Larger sets are kept in a memory-mapped cache file."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels in one picture, which is limited because a small file can hold a huge picture."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SHOWN = 10_000
"""The number of pictures after which a line of progress is printed, because a large folder takes minutes."""

T = TypeVar("T")
R = TypeVar("R")


class Source:
    """The readable pictures of a source.

    Attributes:
        pictures: The readable pictures, in the order in which the data set's digest includes them.
        labels: The labels of the pictures, in the order of their indices.
    """

    def __init__(self, name: str, known: Sequence[str] | None = None) -> None:
        """List the pictures, and read their headers and digests.

        Args:
            name: ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``.
            known: The labels that the pictures may have. None allows all labels.

        Raises:
            DataNotFoundError: A file or a folder is missing.
            DataCorruptError: The source is malformed, has labels that are not in ``known``, or no picture of a class
                can be read.
        """
        listed = idx.listed(listing.place_of(name)) if name.startswith("idx:") else listing.listed(name)
        if known is not None and (unknown := sorted(set(listed.labels) - set(map(listing.normal, known)))):
            raise DataCorruptError(
                f"{name} has the classes {named(unknown)}, which are not among the model's labels "
                f"{named(list(known))}. Name the folders, or the entries in the column label, like the labels."
            )
        self.labels, self._notes = listed.labels, listed.notes
        self._unreadable: list[str] = []
        self.pictures = self._readable(_in_threads(_opened, listed.pictures, "opened"))

    @property
    def notes(self) -> Iterator[str]:
        """Sentences about pictures that were left out."""
        if self._unreadable:
            count = counted(len(self._unreadable), "picture", "pictures")
            yield f"Left out {count} that cannot be read: {named(sorted(self._unreadable))}."
        yield from self._notes

    def settled(self, chosen: Sequence[Picture], images: Images, broken: Mapping[str, str]) -> bool:
        """Leave out pictures that could not be decoded, and record which pictures look the same to a network.

        Args:
            chosen: The pictures that were decoded: some or all of ``pictures``.
            images: The images into which these pictures were converted, [n, ...].
            broken: The reasons why pictures could not be decoded, keyed by the digests of the pictures.

        Returns:
            False if the caller must choose among ``pictures`` again, because pictures were left out, or because files
                turned out to hold the same picture, for example in two formats.

        Raises:
            DataCorruptError: No picture of a class can be read.
        """
        seen = {one.digest: hashlib.sha256(image).hexdigest() for one, image in zip(chosen, images, strict=True)}
        known = len({one.content for one in chosen})
        self.pictures = self._readable(
            f"{one.name} ({broken[one.digest]})"
            if one.digest in broken
            else replace(one, content=seen.get(one.digest, one.content))
            for one in self.pictures
        )
        return not broken and len(set(seen.values())) == known

    def _readable(self, outcomes: Iterable[Picture | str]) -> list[Picture]:
        """Return the pictures among the outcomes, and record the other outcomes, which name unreadable pictures."""
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
                f"no picture of {named(sorted(lost))} can be read. The first of {len(self._unreadable)} unreadable "
                f"pictures is {self._unreadable[0]}. Replace these pictures, or leave the class out."
            )
        return kept


def images_of(
    pictures: Sequence[Picture], image: ImageSpec, memory_bytes: int = MEMORY_BYTES
) -> tuple[Images, Mapping[str, str]]:
    """Decode and prepare pictures, in memory or in a cache file, which is written if it is missing.

    Returns:
        The images [n, ...]; and the reasons why pictures cannot be decoded, keyed by the digests of the pictures. Only
        decoding detects, for example, a truncated file. The caller passes the images and the reasons to
        ``Source.settled``.
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
    """Return a picture's pixels in the form that a model accepts.

    Raises:
        DataCorruptError: The picture cannot be read.
    """
    try:
        return image.read(file)
    except PictureError as error:
        raise DataCorruptError(f"{file} cannot be read as a picture ({error}).") from error


def _opened(picture: Picture) -> Picture | str:
    """Return the picture with the data of its header, or the name of an unreadable picture with the reason."""
    if (pixels := picture.pixels) is not None:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        picture = replace(picture, digest=digest, content=digest, bytes=pixels.nbytes)
        return replace(picture, size=pixels.shape[:2], grey=pixels.ndim == 2)
    try:
        content = picture.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        picture = replace(picture, digest=digest, content=digest, bytes=len(content))
        with image_spec.opened(picture.path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                edges = f"{opened.width} x {opened.height}"
                return f"{picture.name} (it has {edges} pixels; at most {MOST_PIXELS:,} can be read)"
            size = image_spec.upright_size(opened)
            return replace(picture, size=size, grey=opened.mode in _GREY_MODES)
    except (OSError, PictureError) as error:
        return f"{picture.name} ({reason(error)})"


def _pixels(picture: Picture, image: ImageSpec) -> Pixels | str:
    """Return the picture's pixels in the form that a model accepts, or the reason why the picture cannot be read."""
    if picture.pixels is not None:
        return image.prepare(image_spec.flattened(Image.fromarray(picture.pixels), image.channels))
    try:
        return image.read(picture.path)
    except PictureError as error:
        return str(error)


def _mapped(file: Path, shape: tuple[int, ...], fill: Callable[[Images], None], broken: Mapping[str, str]) -> Images:
    """Map the images of a file into memory. A missing file is written, and is kept unless a picture is broken."""
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
    kept: Images = np.load(file, mmap_mode="c")  # copy-on-write, because torch expects writable memory
    return kept


def _in_threads(work: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        for done, result in enumerate(executor.map(work, items), 1):
            if done % _SHOWN == 0:
                sys.stderr.write(f"{what} {done:,} of {len(items):,} pictures\n")
            yield result
