"""The user's own pictures as a data set: opens, divides and prepares them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import division, listing
from hangtag.training.data.dataset import Classes, Dataset, Images, Split
from hangtag.training.data.listing import Picture
from hangtag.training.data.reading import MEMORY_BYTES, Source, images_of
from hangtag.training.errors import SettingsError

FEW = 20
"""Pictures of a class below which its figures say little."""
SMALL = 128
"""Pictures that all have one size are used in it, up to so many pixels of an edge."""
DEFAULT_EDGE = 64
"""Otherwise pictures become squares of this size, unless ``--size`` names another."""


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
        DataCorruptError: The source is malformed, no picture of a class can be read, or they cannot be divided; see
            ``divide``.
        SettingsError: The images cannot be as ``own`` says.
    """
    kind, _, place = name.partition(":")
    source = Source(name)
    while True:
        splits, notes = division.divide(
            source.pictures, own.validation_share, own.test_share, own.split_seed, published=kind == "idx"
        )
        spec = image or _image_for(source.pictures, own)
        chosen = [picture for members in splits.values() for picture in members]
        images, broken = images_of(chosen, spec, memory_bytes)
        if not broken:
            break
        source.drop(broken)
    digest = hashlib.sha256()
    for split, members in splits.items():
        for one in members:
            digest.update(f"{split}\0{one.name}\0{one.label}\0{one.digest}\n".encode())
    classes = _places(chosen, source.labels)
    ends = np.cumsum([len(members) for members in splits.values()])[:-1]
    train, validation, test = map(Split, np.split(images, ends), np.split(classes, ends))
    return Dataset(
        name=name,
        labels=source.labels,
        image=spec if image else replace(spec, **_statistics(train.images, spec)),
        train=train,
        validation=validation,
        test=test,
        source=place,
        digest=digest.hexdigest(),
        notes=(*source.notes, *_few(source.pictures), *notes),
    )


@dataclass(frozen=True)
class HeldOut:
    """The user's own pictures to measure a model on.

    Attributes:
        name: As the command line names them.
        pictures: All of them can be read.
        image: What the model takes.
        content: Their images, as the model takes them, and their places among its labels.
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


def held_out(name: str, image: ImageSpec, labels: Sequence[str]) -> HeldOut:
    """Read pictures to measure a model on: those of the source's test split where it has one, else all.

    Args:
        name: ``folder:PHOTOS`` or ``csv:FILE``.
        image: What the model takes.
        labels: The model's.

    Raises:
        DataNotFoundError: A file or a folder is missing.
        DataCorruptError: The source is malformed, the model lacks one of its classes, no picture of a class can be
            read, or the same picture is in two classes, or in two splits of the source.
    """
    source = Source(name, labels)
    while True:
        chosen, notes = division.held_out(source.pictures)
        images, broken = images_of(chosen, image)
        if not broken:
            break
        source.drop(broken)
    digest = hashlib.sha256()
    for one in chosen:
        digest.update(f"{one.name}\0{one.label}\0{one.digest}\n".encode())
    content = Split(images, _places(chosen, [listing.normal(label) for label in labels]))
    return HeldOut(name, chosen, image, content, digest.hexdigest(), (*source.notes, *notes))


def _places(pictures: Sequence[Picture], labels: Sequence[str]) -> Classes:
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places[picture.label] for picture in pictures], np.int64)


def _few(pictures: Sequence[Picture]) -> Iterator[str]:
    counts = Counter(picture.label for picture in pictures)
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
