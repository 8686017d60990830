"""Opens, splits and prepares the user's own pictures as a data set."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hangtag import listing
from hangtag.listing import Listing, Picture
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import division, reading
from hangtag.training.data.dataset import PIXELS_DIGITS, Dataset, Images, Member, Split
from hangtag.training.data.reading import MEMORY_BYTES
from hangtag.training.errors import SettingsError

FEW = 20  # the number of pictures that a class needs for meaningful metrics
SMALL = 128  # by default, pictures that all have one size are not resized if no edge exceeds this many pixels
DEFAULT_EDGE = 64  # by default, larger pictures and those of several sizes are resized to squares of this edge


@dataclass(frozen=True)
class OwnPictures:
    """How the user's own pictures are split and prepared. None means that the value depends on the pictures."""

    size: tuple[int, int] | None = None  # height and width of the images
    channels: int | None = None  # 1 for grey, 3 for colour
    fit: str = "stretch"  # one of image_spec.FITS: how pictures of other sizes are converted
    validation_share: float = 0.1  # the fraction of each class in the validation split, if the source has none
    test_share: float = 0.1  # the fraction of each class to put into the test split, if the source has no test split
    split_seed: int = 0  # the seed of the random division into splits


AS_FITS = OwnPictures()


def load(
    name: str, own: OwnPictures = AS_FITS, image: ImageSpec | None = None, *, memory_bytes: int = MEMORY_BYTES
) -> Dataset:
    """Read the user's own pictures, ``folder:PHOTOS``, ``csv:FILE`` or ``idx:FOLDER``, as a data set.

    If ``image`` describes how an earlier run prepared the pictures, they are prepared in the same way, whatever ``own``
    says. Images of more than ``memory_bytes`` are kept in a temporary file. Raises the errors of ``reading.opened`` and
    ``division.divide``, and SettingsError if the images cannot be prepared as ``own`` requires.
    """
    source = reading.opened(name)
    spec = image or _image_for(source.pictures, own)
    source, images = reading.decoded(source, spec, memory_bytes)
    if image is None and (of_readable := _image_for(source.pictures, own)) != spec:
        spec = of_readable  # the first spec depended on pictures that cannot be decoded
        source, images = reading.decoded(source, spec, memory_bytes)
    distinct, notes = division.distinct(source.pictures, published=name.startswith("idx:"))
    divided = division.divide(distinct, own.validation_share, own.test_share, own.split_seed)
    chosen = [picture for members in divided.values() for picture in members]
    split_of = [split for split, members in divided.items() for _ in members]
    whole = _split(images, source.pictures, chosen, source.labels)
    ends = np.cumsum([len(members) for members in divided.values()])[:-1]
    parts = zip(np.split(whole.images, ends), np.split(whole.classes, ends), strict=True)
    splits = {split: Split(*part, by_name=True) for split, part in zip(divided, parts, strict=True)}
    return Dataset(
        name=name,
        labels=source.labels,
        image=spec if image else replace(spec, **_statistics(splits["train"].images, spec)),
        source=str(listing.place_of(name)),
        digest=_digest(f"{split}\0{_line(one)}" for split, one in zip(split_of, chosen, strict=True)),
        notes=(*reading.notes(source), *_few(source.pictures), *notes),
        members=[
            Member(split, one.label, one.content[:PIXELS_DIGITS], one.name)
            for split, one in zip(split_of, chosen, strict=True)
        ],
        files=_files(chosen),
        **splits,
    )


@dataclass(frozen=True)
class HeldOut:
    """The user's own pictures to measure a model on."""

    name: str  # the name on the command line
    pictures: Sequence[Picture]  # only pictures that can be read
    image: ImageSpec  # describes the model's input
    content: Split  # the pictures as the model's input; their classes are indices of the model's labels
    digest: str  # the SHA-256 of the pictures' names, labels and contents
    notes: tuple[str, ...]  # sentences about pictures that were left out

    def images(self, image: ImageSpec) -> Images:
        """Return the pictures, converted to the images that another model accepts."""
        if (image.shape, image.fit) == (self.image.shape, self.image.fit):
            return self.content.images
        return reading.decoded(Listing([*self.pictures], (), []), image)[1]

    def without(self, contents: Collection[str]) -> "HeldOut":
        """Return the pictures whose SHA-256 digest is not in ``contents``."""
        kept = [place for place, picture in enumerate(self.pictures) if picture.digest not in contents]
        pictures = [self.pictures[place] for place in kept]
        content = Split(self.content.images[kept], self.content.classes[kept])
        return replace(self, pictures=pictures, content=content, digest=_digest(map(_line, pictures)))


def held_out(name: str, image: ImageSpec, labels: Sequence[str]) -> HeldOut:
    """Read pictures to measure a model on: the source's test split if there is one, otherwise all pictures. Raises the
    errors of ``reading.opened`` and ``division.distinct``."""
    source = reading.opened(name, labels)
    published = name.startswith("idx:")
    division.distinct(source.pictures, published=published)  # refuses a test picture that is a training picture too
    tested = [picture for picture in source.pictures if picture.split == "test"] or source.pictures
    rest = [f"Only the {len(tested):,} pictures of the split 'test' are used."] * (len(tested) < len(source.pictures))
    source, images = reading.decoded(replace(source, pictures=tested), image)
    chosen, notes = division.distinct(source.pictures, published=published)
    content = _split(images, source.pictures, chosen, [listing.normal(label) for label in labels])
    return HeldOut(name, chosen, image, content, _digest(map(_line, chosen)), (*reading.notes(source), *rest, *notes))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _line(picture: Picture) -> str:
    return f"{picture.name}\0{picture.label}\0{picture.digest}\n"


def _split(images: Images, pictures: Sequence[Picture], chosen: Sequence[Picture], labels: Sequence[str]) -> Split:
    """Return the images of the chosen pictures, in that order, each with its label's index in ``labels``."""
    places, classes = ({each: place for place, each in enumerate(every)} for every in (pictures, labels))
    numbers = np.array([classes[picture.label] for picture in chosen], np.int64)
    return Split(reading.arranged(images, [places[picture] for picture in chosen]), numbers, by_name=True)


def _files(pictures: Sequence[Picture]) -> str:
    """Describe the size of the files and the sizes of the pictures, such as "9.1 kB, 18 of 9x8 pixels; 2 of 20x30"."""
    size = sum(picture.bytes for picture in pictures)
    shapes = Counter(picture.size for picture in pictures).most_common()
    shown = [f"{count:,} of {height}x{width}" for (height, width), count in shapes]
    shown[0] += " pixels"
    return f"{f'{size / 1e6:,.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} kB'}, {named(shown)}"


def _few(pictures: Sequence[Picture]) -> list[str]:
    counts = Counter(picture.label for picture in pictures)
    few = [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEW]
    what = f"Classes with fewer than {FEW} pictures, which are too few to learn from or to test with"
    return [f"{what}: {named(few)}."] * bool(few)


def _image_for(pictures: Sequence[Picture], own: OwnPictures) -> ImageSpec:
    """Return the requested size and channels. By default, pictures keep their size if they all have the same
    small size, and the images have three channels if any picture is in colour."""
    size, *others = {picture.size for picture in pictures}
    height, width = own.size or (size if not others and max(size) <= SMALL else (DEFAULT_EDGE, DEFAULT_EDGE))
    channels = own.channels or (1 if all(picture.grey for picture in pictures) else 3)
    try:
        return ImageSpec(height, width, channels, fit=own.fit)
    except ImageSpecError as error:
        raise SettingsError(f"--fit {own.fit}: {error}; or add --grey.") from error


def _statistics(images: Images, image: ImageSpec) -> dict[str, Any]:
    """Return the mean and the standard deviation of each channel, for pixels from 0 to 1, rounded to four digits."""
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
