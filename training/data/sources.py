"""The data sets by name: those that hangtag knows, and the user's own pictures.

Needs no torch, except for ``voc2007``, which torchvision reads.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hangtag.serving.image_spec import MAX_EDGE, ImageSpec, ImageSpecError
from hangtag.training.data import fashion_mnist, idx, listing, outfits, pictures
from hangtag.training.data.dataset import Dataset
from hangtag.training.errors import DataNotFoundError, SettingsError

LABEL_SETS = (*outfits.NAMES, "voc2007")
"""Data sets whose images have a set of labels each."""
KNOWN = (fashion_mnist.NAME, *LABEL_SETS)
VOC_IMAGE = ImageSpec(64, 64)
"""What VOC's pictures become. It is stated here since the reader of VOC needs torchvision."""
OWN = ("folder", "csv", "idx")
"""Kinds of the user's own pictures, as in folder:photos."""


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


def kind_of(name: str) -> str | None:
    """The kind of the user's own pictures, of OWN; None for a data set that hangtag knows.

    Raises:
        SettingsError: It is neither.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in OWN and place:
        return kind
    if name in KNOWN:
        return None
    raise SettingsError(
        f"--data {name}: there is no such data set; there are {', '.join(KNOWN)}, and your own pictures: "
        "folder:PHOTOS with a folder for each class, csv:FILE.csv with the columns path and label, or idx:FOLDER."
    )


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of HEIGHTxWIDTH. Raises SettingsError for another text."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None or not all(1 <= int(edge) <= MAX_EDGE for edge in match.groups()):
        raise SettingsError(f"--size {text}: write HEIGHTxWIDTH in pixels, such as 64x64, of at most {MAX_EDGE} each.")
    return int(match[1]), int(match[2])


def load(
    name: str,
    data_dir: Path | None = None,
    limit: int | None = None,
    own: OwnPictures = OwnPictures(),
    image: ImageSpec | None = None,
    progress: pictures.Progress = pictures.no_progress,
) -> Dataset:
    """Read a data set by name; ``outfits`` and ``outfits-independent`` are composed from Fashion-MNIST.

    Args:
        name: One of KNOWN, or one of OWN with a path, such as folder:photos.
        data_dir: The folder to read; None for the data set's usual place. Own pictures have theirs in their name.
        limit: How many training and validation samples the run will use at most. No more are composed.
        own: How own pictures are divided and prepared.
        image: What an earlier run made of own pictures, in place of ``own`` and of their mean.
        progress: Shows how many own pictures were read.

    Raises:
        DataNotFoundError: The data set, or one of its files, is missing and could not be downloaded.
        DataCorruptError: A file cannot be read, its contents are not the published ones, or pictures cannot be divided.
        SettingsError: There is no data set of this name.
    """
    kind = kind_of(name)
    if kind is not None:
        return _own(kind, Path(name.partition(":")[2]), name, own, image, progress)
    if name == "voc2007":
        from hangtag.training.data import voc  # imports torchvision, which is slow and rarely needed

        return voc.load(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == fashion_mnist.NAME else outfits.load(name, garments, limit=limit)


def collect(
    name: str,
    own: OwnPictures,
    progress: pictures.Progress = pictures.no_progress,
) -> pictures.Collection:
    """Open and divide the pictures of ``folder:`` or ``csv:``. Raises as ``load`` does."""
    kind, _, place = name.partition(":")
    listed = listing.folder(Path(place)) if kind == "folder" else listing.csv_file(Path(place))
    return pictures.collect(
        listed,
        validation_share=own.validation_share,
        test_share=own.test_share,
        seed=own.split_seed,
        progress=progress,
    )


def image_for(collection: pictures.Collection, own: OwnPictures) -> ImageSpec:
    """The images that pictures become: as is asked for, and else as fits them. Raises SettingsError for a wrong fit."""
    natural = pictures.natural_image(collection.opened)
    height, width = own.size or (natural.height, natural.width)
    try:
        return ImageSpec(height, width, own.channels or natural.channels, fit=own.fit)
    except ImageSpecError as error:
        raise SettingsError(f"--fit {own.fit}: {error}; or add --grey.") from error


def _own(
    kind: str, place: Path, name: str, own: OwnPictures, image: ImageSpec | None, progress: pictures.Progress
) -> Dataset:
    if kind == "idx":
        if not place.is_dir():
            raise DataNotFoundError(f"{place} is no folder. Name one with four IDX files.")
        if own.size or own.channels:
            raise SettingsError("--size, --colour and --grey: IDX files hold images of one size, which are used so.")
        data = idx.load(place, own.validation_share, own.split_seed)
        chosen = image or replace(data.image, fit=own.fit, **pictures.statistics(data.train.images, data.image))
        return replace(data, image=chosen)
    collection = collect(name, own, progress)
    return pictures.load(
        name,
        collection,
        image or image_for(collection, own),
        fashion_mnist.cache_dir() / "pictures",
        normalise=image is None,
        progress=progress,
    )
