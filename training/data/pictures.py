"""The user's own pictures as a data set: opens, splits and prepares them."""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hangtag import listing
from hangtag.listing import Picture
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import division
from hangtag.training.data.dataset import PIXELS_DIGITS, Classes, Dataset, Images, Member, Split
from hangtag.training.data.reading import MEMORY_BYTES, Source, images_of
from hangtag.training.errors import SettingsError

FEW = 20
"""With fewer pictures than this, a class's figures say little."""
SMALL = 128
"""Pictures that all have one size keep that size if its edges have at most this many pixels."""
DEFAULT_EDGE = 64
"""Otherwise pictures become squares with this edge, unless ``--size`` names another size."""
_MOST_SIZES = 3
"""The most sizes that a line about the files names."""


@dataclass(frozen=True)
class OwnPictures:
    """How the user's own pictures are split and prepared. None lets the pictures decide.

    Attributes:
        size: Height and width of the images.
        channels: 1 for grey, 3 for colour.
        fit: One of ``image_spec.FITS``.
        validation_share: The share of each class's pictures for validation.
        test_share: The share of each class's pictures for testing, if the source has no test split.
        split_seed: Another seed divides the pictures differently.
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
        own: How the pictures are divided and prepared.
        image: How an earlier run prepared the pictures; replaces ``own`` and their mean.
        memory_bytes: The most memory that images may take. A larger set is kept in the cache for the next run.

    Raises:
        DataNotFoundError: A file or a folder is missing.
        DataCorruptError: The source is malformed, no picture of a class can be read, or the pictures cannot be divided;
            see ``divide``.
        SettingsError: The images cannot be prepared as ``own`` says.
    """
    source = Source(name)
    while True:
        splits, notes = division.divide(
            source.pictures, own.validation_share, own.test_share, own.split_seed, published=_is_published(name)
        )
        spec = image or _image_for(source.pictures, own)
        chosen = [picture for members in splits.values() for picture in members]
        images, broken = images_of(chosen, spec, memory_bytes)
        if source.settled(chosen, images, broken):
            break
    digest = hashlib.sha256()
    for split, members in splits.items():
        for one in members:
            digest.update(f"{split}\0{one.name}\0{one.label}\0{one.digest}\n".encode())
    classes = _places(chosen, source.labels)
    seen = {one.digest: one.content for one in source.pictures}
    split_of = [split for split, members in splits.items() for _ in members]
    ends = np.cumsum([len(members) for members in splits.values()])[:-1]
    train, validation, test = (
        Split(*parts, by_name=True) for parts in zip(np.split(images, ends), np.split(classes, ends), strict=True)
    )
    return Dataset(
        name=name,
        labels=source.labels,
        image=spec if image else replace(spec, **_statistics(train.images, spec)),
        train=train,
        validation=validation,
        test=test,
        source=str(listing.place_of(name)),
        digest=digest.hexdigest(),
        notes=(*source.notes, *_few(source.pictures), *notes),
        members=[
            Member(split, one.label, seen[one.digest][:PIXELS_DIGITS], one.name)
            for split, one in zip(split_of, chosen, strict=True)
        ],
        files=_files(chosen),
    )


@dataclass(frozen=True)
class HeldOut:
    """The user's own pictures to measure a model on.

    Attributes:
        name: The name on the command line.
        pictures: The pictures, all of which can be read.
        image: What the model takes.
        content: The pictures' images as the model takes them, and the indices of their labels among the model's.
        digest: SHA-256 of names, labels and contents.
        notes: Sentences about what was left out.
    """

    name: str
    pictures: Sequence[Picture]
    image: ImageSpec
    content: Split
    digest: str
    notes: tuple[str, ...]

    def images(self, image: ImageSpec) -> Images:
        """The images as another model takes them."""
        if (image.shape, image.fit) == (self.image.shape, self.image.fit):
            return self.content.images
        return images_of(self.pictures, image)[0]

    def without(self, contents: Collection[str]) -> "HeldOut":
        """The pictures without those that have these contents, by SHA-256."""
        kept = [place for place, picture in enumerate(self.pictures) if picture.digest not in contents]
        pictures = [self.pictures[place] for place in kept]
        content = Split(self.content.images[kept], self.content.classes[kept])
        return replace(self, pictures=pictures, content=content, digest=_digest(pictures))


def held_out(name: str, image: ImageSpec, labels: Sequence[str]) -> HeldOut:
    """Read pictures to measure a model on: the source's test split if there is one, else all pictures.

    Args:
        name: ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``.
        image: What the model takes.
        labels: The model's labels.

    Raises:
        DataNotFoundError: A file or a folder is missing.
        DataCorruptError: The source is malformed, the model lacks one of its classes, no picture of a class can be
            read, or, except in IDX files, the same picture is in two classes or in two splits of the source.
    """
    source = Source(name, labels)
    while True:
        chosen, notes = division.held_out(source.pictures, published=_is_published(name))
        images, broken = images_of(chosen, image)
        if source.settled(chosen, images, broken):
            break
    classes = _places(chosen, [listing.normal(label) for label in labels])
    content = Split(images, classes, by_name=True)
    return HeldOut(name, chosen, image, content, _digest(chosen), (*source.notes, *notes))


def _digest(pictures: Sequence[Picture]) -> str:
    lines = (f"{one.name}\0{one.label}\0{one.digest}\n" for one in pictures)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_published(name: str) -> bool:
    """Whether the pictures are a published set, which stays as it is."""
    return name.startswith("idx:")


def _files(pictures: Sequence[Picture]) -> str:
    """The size of the files, and the sizes of the pictures, such as "0.1 MB, 18 of 9x8 pixels, 2 of 20x30"."""
    sizes = Counter(picture.size for picture in pictures).most_common()
    shown = [f"{count:,} of {height}x{width}" for (height, width), count in sizes[:_MOST_SIZES]]
    if others := [size for size, _ in sizes[_MOST_SIZES:]]:
        (low, narrow), (high, wide) = (extreme(others, key=math.prod) for extreme in (min, max))
        shown.append(f"the others from {low}x{narrow} to {high}x{wide}")
    shown[0] += " pixels"
    return ", ".join([f"{sum(picture.bytes for picture in pictures) / 1e6:,.1f} MB", *shown])


def _places(pictures: Sequence[Picture], labels: Sequence[str]) -> Classes:
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places[picture.label] for picture in pictures], np.int64)


def _few(pictures: Sequence[Picture]) -> Iterator[str]:
    counts = Counter(picture.label for picture in pictures)
    if few := [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEW]:
        yield f"Fewer than {FEW} pictures, too few to learn from or to test with: {named(few)}."


def _image_for(pictures: Sequence[Picture], own: OwnPictures) -> ImageSpec:
    """The requested size and channels. By default, the pictures' size if all have the same small size, and colour if
    any picture has colours."""
    sizes = {picture.size for picture in pictures}
    one_size = next(iter(sizes)) if len(sizes) == 1 else (DEFAULT_EDGE, DEFAULT_EDGE)
    height, width = own.size or (one_size if max(one_size) <= SMALL else (DEFAULT_EDGE, DEFAULT_EDGE))
    channels = own.channels or (1 if all(picture.grey for picture in pictures) else 3)
    try:
        return ImageSpec(height, width, channels, fit=own.fit)
    except ImageSpecError as error:
        raise SettingsError(f"--fit {own.fit}: {error}; or add --grey.") from error


def _statistics(images: Images, image: ImageSpec) -> dict[str, Any]:
    """Mean and standard deviation of each channel, of pixels from 0 to 1, rounded to four digits."""
    counts = np.zeros((image.channels, 256), np.int64)
    for start in range(0, len(images), 1_000):
        part = images[start : start + 1_000].reshape(-1, image.channels)
        counts += np.stack([np.bincount(channel, minlength=256) for channel in part.T])
    values = np.arange(256) / 255
    means = counts @ values / counts.sum(axis=1)
    deviations = np.sqrt((counts * (values - means[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1))
    return {
        "mean": tuple(round(mean, 4) for mean in means.tolist()),
        "std": tuple(max(round(deviation, 4), 0.01) for deviation in deviations.tolist()),
    }
