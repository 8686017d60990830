"""Opens and decodes the user's own pictures, and leaves out the pictures that cannot be read."""

import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

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

MEMORY_BYTES = 2 << 30  # prepared pictures of more bytes are kept in a memory-mapped file
MOST_PIXELS = 100_000_000  # the limit for one picture, because a small file can hold a huge picture
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SHOWN = 10_000  # the number of pictures between two lines of progress; a large folder takes minutes


def opened(name: str, known: Sequence[str] | None = None) -> Listing:
    """List the pictures of ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``, and read their digests and headers.

    Raises DataNotFoundError if a file or a folder is missing, and DataCorruptError if the source is malformed, has
    labels that are not in ``known``, or if no picture of a class can be read.
    """
    source = idx.listed(listing.place_of(name)) if name.startswith("idx:") else listing.listed(name)
    if known is not None and (unknown := sorted(set(source.labels) - set(map(listing.normal, known)))):
        raise DataCorruptError(
            f"{name} has the classes {named(unknown)}, which are not among the model's labels {named(list(known))}. "
            "Rename the folders, or the entries in the column 'label', so that they match the model's labels."
        )
    return _readable(source, _opened, "opened")[0]


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

    def decode(place: int, picture: Picture) -> Picture:
        if picture.pixels is None:
            images[place] = image.read(picture.path)
        else:
            images[place] = image.prepare(image_spec.flattened(Image.fromarray(picture.pixels), image.channels))
        return replace(picture, content=hashlib.sha256(images[place].tobytes()).hexdigest())

    readable, places = _readable(source, decode, "prepared")
    return readable, arranged(images, places)


def arranged(images: Images, order: Sequence[int]) -> Images:
    """Return the images with the indices ``order``, in this order. The images are swapped in place, because a
    copy of a large set would need twice the memory."""
    for place, source in enumerate(order):
        while source < place:  # an earlier step swapped this image to another place
            source = order[source]
        if source != place:
            images[[place, source]] = images[[source, place]]
    return images[: len(order)]


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


def _readable(source: Listing, work: Callable[[int, Picture], Picture], done: str) -> tuple[Listing, list[int]]:
    """Call ``work`` with every picture and its index, in threads. Returns a pair: the source with the resulting
    pictures, and the indices of these pictures. Leaves out the pictures for which ``work`` raises an OSError or a
    PictureError. Raises DataCorruptError if no picture of a class is left."""

    def attempt(place: int, picture: Picture) -> Picture | str:
        try:
            return work(place, picture)
        except (OSError, PictureError) as error:
            return f"{picture.name} ({reason(error)})"

    pictures, places, unreadable = [], [], [*source.unreadable]
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        outcomes = executor.map(attempt, range(len(source.pictures)), source.pictures)
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                unreadable.append(outcome)
            else:
                pictures.append(outcome)
                places.append(place)
            if (place + 1) % _SHOWN == 0:
                sys.stderr.write(f"{done} {place + 1:,} of {len(source.pictures):,} pictures\n")
    unreadable.sort()
    if not pictures:
        count = counted(len(unreadable), "picture", "pictures")
        raise DataCorruptError(f"none of {count} can be read; the first is {unreadable[0]}.")
    if lost := {picture.label for picture in source.pictures} - {picture.label for picture in pictures}:
        raise DataCorruptError(
            f"no picture of {named(sorted(lost))} can be read. The first of {len(unreadable)} unreadable pictures is "
            f"{unreadable[0]}. Replace these pictures, or leave the class out."
        )
    return replace(source, pictures=pictures, unreadable=unreadable), places


def _opened(_: int, picture: Picture) -> Picture:
    """Return the picture with its digest and the data of its header."""
    if (pixels := picture.pixels) is not None:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        opened = replace(picture, size=pixels.shape[:2], grey=pixels.ndim == 2)
        return replace(opened, digest=digest, content=digest, bytes=pixels.nbytes)
    content = picture.path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with image_spec.opened(picture.path) as header:
        if header.width * header.height > MOST_PIXELS:
            edges = f"{header.width} x {header.height}"
            raise PictureError(f"it has {edges} pixels; at most {MOST_PIXELS:,} can be read")
        size, grey = image_spec.upright_size(header), header.mode in _GREY_MODES
    return replace(picture, digest=digest, content=digest, bytes=len(content), size=size, grey=grey)
