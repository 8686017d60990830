"""Opens and decodes the user's own pictures, and leaves out the pictures that cannot be read."""

import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hangtag import idx, listing
from hangtag.errors import reason
from hangtag.listing import Listing, Picture
from hangtag.printable import counted, named
from hangtag.serving import image_spec
from hangtag.serving.image_spec import ImageSpec, PictureError, Pixels
from hangtag.training.data.dataset import Images
from hangtag.training.data.fashion_mnist import cache_dir
from hangtag.training.errors import DataCorruptError

MEMORY_BYTES = 2 << 30
"""The largest size of prepared pictures that are kept in memory. Larger sets are kept in a memory-mapped file."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels in one picture, which is limited because a small file can hold a huge picture."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SHOWN = 10_000
"""The number of pictures after which a line of progress is printed, because a large folder takes minutes."""

T = TypeVar("T")
R = TypeVar("R")


def opened(name: str, known: Sequence[str] | None = None) -> Listing:
    """List the pictures of ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``, and read their digests and headers.

    Raises:
        DataNotFoundError: If a file or a folder is missing.
        DataCorruptError: If the source is malformed, if it has labels that are not in ``known``, or if no picture of a
            class can be read.
    """
    source = idx.listed(listing.place_of(name)) if name.startswith("idx:") else listing.listed(name)
    if known is not None and (unknown := sorted(set(source.labels) - set(map(listing.normal, known)))):
        raise DataCorruptError(
            f"{name} has the classes {named(unknown)}, which are not among the model's labels {named(list(known))}. "
            "Rename the folders, or the entries in the column 'label', so that they match the model's labels."
        )
    return _readable(source, _in_threads(_opened, source.pictures, "opened"))


def decoded(source: Listing, image: ImageSpec, memory_bytes: int = MEMORY_BYTES) -> tuple[Listing, Images]:
    """Decode the opened pictures of a source, and prepare them for a network, in memory or in a temporary file.

    Returns the source with the pictures that could be decoded, and these pictures as images [n, ...]. Raises
    DataCorruptError if no picture of a class can be decoded.
    """
    shape = (len(source.pictures), *image.shape)
    if math.prod(shape) <= memory_bytes:
        images: Images = np.empty(shape, np.uint8)
    else:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()) as file:  # the kernel frees the file when the mapping ends
            images = np.memmap(file, np.uint8, "w+", shape=shape)

    def outcomes() -> Iterator[Picture | str]:
        kept = 0
        prepared_pixels = _in_threads(lambda picture: _pixels(picture, image), source.pictures, "prepared")
        for picture, pixels in zip(source.pictures, prepared_pixels, strict=True):
            if isinstance(pixels, str):
                yield f"{picture.name} ({pixels})"
            else:
                images[kept] = pixels
                kept += 1
                yield replace(picture, content=hashlib.sha256(pixels.tobytes()).hexdigest())

    readable = _readable(source, outcomes())
    return readable, images[: len(readable.pictures)]


def notes(source: Listing) -> list[str]:
    """Return sentences about the pictures and files that were left out."""
    count = counted(len(source.unreadable), "picture", "pictures")
    unreadable = f"Left out {count} that cannot be read: {named(source.unreadable)}."
    return [*[unreadable] * bool(source.unreadable), *source.notes]


def prepared(file: Path, image: ImageSpec) -> Pixels:
    """Return a picture's pixels in the form that a model accepts. Raises DataCorruptError for an unreadable file."""
    try:
        return image.read(file)
    except PictureError as error:
        raise DataCorruptError(f"{file} cannot be read as a picture ({error}).") from error


def _readable(source: Listing, outcomes: Iterable[Picture | str]) -> Listing:
    """Return the source with only its readable pictures. An outcome is a picture, or a text that names an unreadable
    picture. Raises DataCorruptError if no picture of a class can be read."""
    pictures, unreadable = [], [*source.unreadable]
    for outcome in outcomes:
        if isinstance(outcome, str):
            unreadable.append(outcome)
        else:
            pictures.append(outcome)
    unreadable.sort()
    count = counted(len(unreadable), "picture", "pictures")
    if not pictures:
        raise DataCorruptError(f"none of {count} can be read; the first is {unreadable[0]}.")
    if lost := {picture.label for picture in source.pictures} - {picture.label for picture in pictures}:
        raise DataCorruptError(
            f"no picture of {named(sorted(lost))} can be read. The first of {len(unreadable)} unreadable pictures is "
            f"{unreadable[0]}. Replace these pictures, or leave the class out."
        )
    return replace(source, pictures=pictures, unreadable=unreadable)


def _opened(picture: Picture) -> Picture | str:
    """Return the picture with its digest and the data of its header, or a text that says why it is unreadable."""
    if (pixels := picture.pixels) is not None:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        picture = replace(picture, digest=digest, content=digest, bytes=pixels.nbytes)
        return replace(picture, size=pixels.shape[:2], grey=pixels.ndim == 2)
    try:
        content = picture.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        picture = replace(picture, digest=digest, content=digest, bytes=len(content))
        with image_spec.opened(picture.path) as header:
            if header.width * header.height > MOST_PIXELS:
                edges = f"{header.width} x {header.height}"
                return f"{picture.name} (it has {edges} pixels; at most {MOST_PIXELS:,} can be read)"
            return replace(picture, size=image_spec.upright_size(header), grey=header.mode in _GREY_MODES)
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


def _in_threads(work: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        for done, result in enumerate(executor.map(work, items), 1):
            if done % _SHOWN == 0:
                sys.stderr.write(f"{what} {done:,} of {len(items):,} pictures\n")
            yield result
