"""Reads the pictures of a folder or of a CSV file into a data set: opens, divides and prepares them."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ImageOps

from hangtag.serving import image_spec
from hangtag.serving.image_spec import ImageSpec, PictureError, Pixels
from hangtag.training.data.dataset import Classes, Dataset, Images, Split
from hangtag.training.data.division import Division, Opened, divide, named
from hangtag.training.data.listing import Listed, Listing
from hangtag.training.errors import DataCorruptError

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
Progress = Callable[[str, int, int], None]
"""Gets what is done, how many are, and of how many."""


@dataclass(frozen=True)
class Collection:
    """The pictures of a source, divided into splits, and what was left out.

    Attributes:
        opened: Those that can be read.
        division: Of them.
        unreadable: The names of others, each with the reason.
        others: Files that are none by their names.
    """

    opened: tuple[Opened, ...]
    division: Division
    unreadable: tuple[str, ...]
    others: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the pictures' names, labels, splits and contents."""
        digest = hashlib.sha256()
        for split, indices in self.division.splits.items():
            for index in indices:
                one = self.opened[index]
                digest.update(f"{split}\0{one.listed.name}\0{one.listed.label}\0{one.digest}\n".encode())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was left out, and about classes with few pictures."""
        notes = []
        if self.unreadable:
            notes.append(f"Left out {len(self.unreadable)} pictures that cannot be read: {named(self.unreadable)}.")
        if self.division.repeated:
            names = [self.opened[index].listed.name for index in self.division.repeated]
            notes.append(f"Left out {len(names)} pictures that are there twice: {named(names)}.")
        if self.others:
            notes.append(
                f"Left out {len(self.others)} files whose names do not end in {', '.join(image_spec.SUFFIXES)}: "
                f"{named(list(map(str, self.others)))}."
            )
        counts = Counter(one.listed.label for one in self.opened)
        if few := [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEW]:
            notes.append(f"Fewer than {FEW} pictures, too few to learn or to test by: {named(few)}.")
        return tuple(notes)


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def collect(
    listing: Listing,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Collection:
    """Open every picture of a listing, and divide those that can be read.

    Args:
        listing: What the source names.
        validation_share: See ``divide``.
        test_share: Likewise.
        seed: Likewise.
        progress: Shows how many pictures were opened.

    Raises:
        DataCorruptError: No picture can be read, or they cannot be divided; see ``divide``.
    """
    outcomes = list(_in_threads(_open, listing.pictures, "opened", progress))
    opened = tuple(outcome for outcome in outcomes if isinstance(outcome, Opened))
    unreadable = tuple(outcome for outcome in outcomes if isinstance(outcome, str))
    if not opened:
        raise DataCorruptError(f"none of {len(unreadable)} pictures can be read; the first is {unreadable[0]}.")
    division = divide(opened, validation_share, test_share, seed)
    return Collection(opened, division, unreadable, listing.others)


def natural_image(opened: Sequence[Opened]) -> ImageSpec:
    """The images that fit pictures: in their own size if it is small and all have it, in colour if one has colours."""
    sizes = {one.size for one in opened}
    height, width = next(iter(sizes)) if len(sizes) == 1 else (DEFAULT_EDGE, DEFAULT_EDGE)
    if max(height, width) > SMALL:
        height, width = DEFAULT_EDGE, DEFAULT_EDGE
    return ImageSpec(height, width, channels=1 if all(one.grey for one in opened) else 3)


def load(
    name: str,
    collection: Collection,
    image: ImageSpec,
    cache: Path,
    *,
    normalise: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = no_progress,
) -> Dataset:
    """Prepare all pictures of a collection.

    Args:
        name: As ``--data`` names the source.
        collection: The pictures.
        image: How each becomes an image.
        cache: The folder for more images than fit into memory. They are kept there for the next run.
        normalise: Take mean and standard deviation of the training split's pixels in place of those of ``image``.
        memory_bytes: The most that images may take in memory.
        progress: Shows how many pictures were prepared.

    Raises:
        DataCorruptError: A picture can no longer be read.
    """
    pixels = image.height * image.width * image.channels
    total = sum(len(indices) for indices in collection.division.splits.values())
    mapped = pixels * total > memory_bytes
    digest = collection.digest
    places = {label: place for place, label in enumerate(collection.division.labels)}
    splits = {}
    done = 0
    for split, indices in collection.division.splits.items():
        chosen = [collection.opened[index].listed for index in indices]
        file = cache / f"{digest[:16]}-{_shape_name(image)}-{split}.npy" if mapped else None

        def shown(what: str, count: int, _: int, before: int = done) -> None:
            progress(what, before + count, total)

        images = _images(chosen, image, file, shown)
        classes: Classes = np.array([places[one.label] for one in chosen], np.int64)
        splits[split] = Split(images, classes)
        done += len(chosen)
    if normalise:
        image = replace(image, **statistics(splits["train"].images, image))
    source, notes = name.partition(":")[2], collection.notes
    return Dataset(name, collection.division.labels, image, source=source, digest=digest, notes=notes, **splits)


def prepared(file: Path, image: ImageSpec) -> Pixels:
    """A picture's pixels as a model takes them.

    Raises:
        DataCorruptError: It cannot be read.
    """
    try:
        return image.read(file)
    except PictureError as error:
        raise DataCorruptError(f"{file} cannot be read as a picture ({error}).") from error


def _open(listed: Listed) -> Opened | str:
    """The picture; or its name and, in brackets, why it cannot be read."""
    try:
        content = listed.path.read_bytes()
        with image_spec.opened(listed.path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                size = f"{picture.width} x {picture.height}"
                return f"{listed.name} (it has {size} pixels; at most {MOST_PIXELS:,} can be read)"
            picture.load()  # a file that is cut off shows only when it is decoded
            width, height = ImageOps.exif_transpose(picture).size
            return Opened(listed, hashlib.sha256(content).hexdigest(), (height, width), picture.mode in _GREY_MODES)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        return f"{listed.name} ({' '.join(str(error).split()) or type(error).__name__})"


def _images(chosen: Sequence[Listed], image: ImageSpec, file: Path | None, progress: Progress) -> Images:
    shape = (len(chosen), *image.shape)
    if file is None:
        images: Images = np.empty(shape, np.uint8)
        _fill(images, chosen, image, progress)
        return images
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        _fill(mapped, chosen, image, progress)
        mapped.flush()
        temporary.replace(file)
    kept: Images = np.load(file, mmap_mode="c")  # writable, as torch wants it; nothing is written
    return kept


def _fill(images: Images, chosen: Sequence[Listed], image: ImageSpec, progress: Progress) -> None:
    def prepare(listed: Listed) -> Pixels:
        return prepared(listed.path, image)

    for index, pixels in enumerate(_in_threads(prepare, chosen, "prepared", progress)):
        images[index] = pixels


def _in_threads(work: Callable[[T], R], items: Sequence[T], what: str, progress: Progress) -> Iterator[R]:
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as executor:
        for done, result in enumerate(executor.map(work, items), 1):
            progress(what, done, len(items))
            yield result


def statistics(images: Images, image: ImageSpec) -> dict[str, Any]:
    """Mean and standard deviation of each channel, of pixels from 0 to 1, rounded to four digits."""
    counts = [_histogram(images, channel if image.channels == 3 else None) for channel in range(image.channels)]
    values = np.arange(256) / 255
    means = [float((count * values).sum() / count.sum()) for count in counts]
    deviations = [
        float(np.sqrt((count * (values - mean) ** 2).sum() / count.sum()))
        for count, mean in zip(counts, means, strict=True)
    ]
    return {
        "mean": tuple(round(mean, 4) for mean in means),
        "std": tuple(max(round(deviation, 4), 0.01) for deviation in deviations),
    }


def _histogram(images: Images, channel: int | None) -> npt.NDArray[np.int64]:
    count = np.zeros(256, np.int64)
    for part in _parts(images):
        count += np.bincount((part if channel is None else part[..., channel]).ravel(), minlength=256)
    return count


def _parts(images: Images) -> Iterable[Images]:
    return (images[start : start + 1_000] for start in range(0, len(images), 1_000))


def _shape_name(image: ImageSpec) -> str:
    return f"{image.height}x{image.width}x{image.channels}-{image.fit}"
