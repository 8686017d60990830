"""The user's own pictures as a data set: opens, divides and prepares them."""

import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from hangtag.printable import named
from hangtag.serving import image_spec
from hangtag.serving.image_spec import ImageSpec, ImageSpecError, PictureError, Pixels
from hangtag.training.data import idx, listing
from hangtag.training.data.dataset import Classes, Dataset, Images, Split
from hangtag.training.data.division import divide
from hangtag.training.data.fashion_mnist import cache_dir
from hangtag.training.data.listing import Picture
from hangtag.training.errors import DataCorruptError, SettingsError

MEMORY_BYTES = 2 << 30
"""Prepared pictures of up to this size are held in memory; more of them in a file of the cache, which is mapped."""
MOST_PIXELS = 100_000_000
"""Of one picture: a small file can hold a huge one."""
FEW = 20
"""Pictures of a class below which its figures say little."""
SMALL = 128
"""Pictures that all have one size are used in it, up to so many pixels of an edge."""
DEFAULT_EDGE = 64
"""Otherwise pictures become squares of this size, unless ``--size`` names another."""
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")

T = TypeVar("T")
R = TypeVar("R")
SHOWN = 10_000
"""After each so many pictures standard error gets a line, since a large folder takes minutes."""


@dataclass(frozen=True)
class OwnPictures:
    """How the user's own pictures are divided and prepared. None: as fits them.

    Attributes:
        size: Height and width of the images.
        channels: 1 for grey, 3 for colour.
        fit: One of ``image_spec.FITS``.
        validation_share: Of each class's pictures.
        test_share: Likewise, where the source has no test split.
        split_seed: Another one divides them otherwise.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: str = "stretch"
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0


AS_FITS = OwnPictures()


def load(
    name: str,
    own: OwnPictures = AS_FITS,
    image: ImageSpec | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Dataset:
    """Read the user's own pictures.

    Args:
        name: ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``.
        own: How they are divided and prepared.
        image: What an earlier run made of them, in place of ``own`` and of their mean.
        memory_bytes: The most that images may take in memory. More are kept in the cache for the next run.

    Raises:
        DataNotFoundError: A file or a folder is missing.
        DataCorruptError: The source or all its pictures cannot be read, or they cannot be divided; see ``divide``.
        SettingsError: The images cannot be as ``own`` says.
    """
    kind, _, place = name.partition(":")
    others: list[Path] = []
    labels: tuple[str, ...] = ()
    if kind == "idx":
        pictures, labels = idx.listed(Path(place))
    else:
        pictures, others = listing.listed(name)
    outcomes = list(_in_threads(_open, pictures, "opened"))
    opened = [outcome for outcome in outcomes if isinstance(outcome, Picture)]
    unreadable = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if not opened:
        raise DataCorruptError(f"none of {len(unreadable)} pictures can be read; the first is {unreadable[0]}.")
    if lost := {picture.label for picture in pictures} - {picture.label for picture in opened}:
        raise DataCorruptError(
            f"no picture of {named(sorted(lost))} can be read; {len(unreadable)} cannot, such as {unreadable[0]}. "
            "Replace them, or leave the class out."
        )
    splits, notes = divide(opened, own.validation_share, own.test_share, own.split_seed, published=kind == "idx")
    counts = Counter(picture.label for picture in opened)
    labels = labels or tuple(sorted(counts))
    chosen = [picture for members in splits.values() for picture in members]
    digest = hashlib.sha256(
        "".join(
            f"{split}\0{picture.name}\0{picture.label}\0{picture.digest}\n"
            for split, members in splits.items()
            for picture in members
        ).encode()
    ).hexdigest()
    spec = image or _image_for(opened, own)
    file = cache_dir() / "pictures" / f"{digest[:16]}-{'x'.join(map(str, spec.shape))}-{spec.fit}.npy"
    mapped = len(chosen) * math.prod(spec.shape) > memory_bytes
    images = _images(chosen, spec, file if mapped else None)
    places = {label: place for place, label in enumerate(labels)}
    classes: Classes = np.array([places[picture.label] for picture in chosen], np.int64)
    ends = np.cumsum([len(members) for members in splits.values()])[:-1]
    train, validation, test = map(Split, np.split(images, ends), np.split(classes, ends))
    return Dataset(
        name=name,
        labels=labels,
        image=spec if image else replace(spec, **_statistics(train.images, spec)),
        train=train,
        validation=validation,
        test=test,
        source=place,
        digest=digest,
        notes=(*_notes(unreadable, others, counts), *notes),
    )


def prepared(file: Path, image: ImageSpec) -> Pixels:
    """A picture's pixels as a model takes them.

    Raises:
        DataCorruptError: It cannot be read.
    """
    try:
        return image.read(file)
    except PictureError as error:
        raise DataCorruptError(f"{file} cannot be read as a picture ({error}).") from error


def _open(picture: Picture) -> Picture | str:
    """The picture; or its name and, in brackets, why it cannot be read."""
    if (pixels := picture.pixels) is not None:
        return replace(picture, digest=hashlib.sha256(pixels.tobytes()).hexdigest(), size=pixels.shape)
    try:
        content = picture.path.read_bytes()
        with image_spec.opened(picture.path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                size = f"{opened.width} x {opened.height}"
                return f"{picture.name} (it has {size} pixels; at most {MOST_PIXELS:,} can be read)"
            opened.load()  # a file that is cut off shows only when it is decoded
            width, height = ImageOps.exif_transpose(opened).size
            digest, grey = hashlib.sha256(content).hexdigest(), opened.mode in _GREY_MODES
            return replace(picture, digest=digest, size=(height, width), grey=grey)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        return f"{picture.name} ({' '.join(str(error).split()) or type(error).__name__})"


def _notes(unreadable: Sequence[str], others: Sequence[Path], counts: Counter[str]) -> Iterator[str]:
    """Sentences about what was left out, and about classes with few pictures."""
    if unreadable:
        yield f"Left out {len(unreadable)} pictures that cannot be read: {named(unreadable)}."
    if others:
        endings = ", ".join(image_spec.SUFFIXES)
        yield f"Left out {len(others)} files whose names do not end in {endings}: {named(list(map(str, others)))}."
    if few := [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEW]:
        yield f"Fewer than {FEW} pictures, too few to learn or to test by: {named(few)}."


def _image_for(pictures: Sequence[Picture], own: OwnPictures) -> ImageSpec:
    """As is asked for; else in their own size if it is small and all have it, and in colour if one has colours."""
    sizes = {picture.size for picture in pictures}
    one_size = next(iter(sizes)) if len(sizes) == 1 else (DEFAULT_EDGE, DEFAULT_EDGE)
    height, width = own.size or (one_size if max(one_size) <= SMALL else (DEFAULT_EDGE, DEFAULT_EDGE))
    channels = own.channels or (1 if all(picture.grey for picture in pictures) else 3)
    try:
        return ImageSpec(height, width, channels, fit=own.fit)
    except ImageSpecError as error:
        raise SettingsError(f"--fit {own.fit}: {error}; or add --grey.") from error


def _images(pictures: Sequence[Picture], image: ImageSpec, file: Path | None) -> Images:
    """The images [n, ...] of pictures, in memory, or in a file that is written if it is not there."""

    def prepare(picture: Picture) -> Pixels:
        if picture.pixels is None:
            return prepared(picture.path, image)
        return image.prepare(image_spec.flattened(Image.fromarray(picture.pixels), image.channels))

    def fill(images: Images) -> None:
        for index, pixels in enumerate(_in_threads(prepare, pictures, "prepared")):
            images[index] = pixels

    shape = (len(pictures), *image.shape)
    if file is None:
        images: Images = np.empty(shape, np.uint8)
        fill(images)
        return images
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        fill(mapped)
        mapped.flush()
        temporary.replace(file)
    kept: Images = np.load(file, mmap_mode="c")  # writable, as torch wants it; nothing is written
    return kept


def _in_threads(work: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        for done, result in enumerate(executor.map(work, items), 1):
            if done % SHOWN == 0:
                sys.stderr.write(f"{what} {done:,} of {len(items):,} pictures\n")
            yield result


def _statistics(images: Images, image: ImageSpec) -> dict[str, Any]:
    """Mean and standard deviation of each channel, of pixels from 0 to 1, rounded to four digits."""
    counts = np.zeros((image.channels, 256), np.int64)
    for start in range(0, len(images), 1_000):
        part = images[start : start + 1_000].reshape(-1, image.channels)
        counts += np.stack([np.bincount(channel, minlength=256) for channel in part.T])
    values = np.arange(256) / 255
    means = counts @ values / counts.sum(axis=1)
    deviations = [
        float(np.sqrt((count * (values - mean) ** 2).sum() / count.sum()))
        for count, mean in zip(counts, means, strict=True)
    ]
    return {
        "mean": tuple(round(float(mean), 4) for mean in means),
        "std": tuple(max(round(deviation, 4), 0.01) for deviation in deviations),
    }
