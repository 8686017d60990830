"""The data sets by name: those that hangtag knows, and the user's own pictures.

Needs no torch, except for ``voc2007``, which torchvision reads.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from hangtag.serving.image_spec import MAX_EDGE, ImageSpec
from hangtag.training.data import fashion_mnist, outfits, pictures
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import SettingsError

LABEL_SETS = (*outfits.NAMES, "voc2007")
"""Data sets whose images have a set of labels each."""
KNOWN = (fashion_mnist.NAME, *LABEL_SETS)
VOC_IMAGE = ImageSpec(64, 64)
"""What VOC's pictures become. It is stated here since the reader of VOC needs torchvision."""
OWN = ("folder", "csv", "idx")
"""Kinds of the user's own pictures, as in folder:photos."""


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


OPTIONS = ("size", "colour", "grey", "fit", "validation_share", "test_share", "split_seed")
"""The options of commands, by their Python names, that say how own pictures are divided and prepared."""


def own_pictures(dataset: str, *, size: str | None, colour: bool, grey: bool, **given: Any) -> OwnPictures:
    """How own pictures are divided and prepared by the options of a command. None, and neither colour: as fits them.

    Args:
        dataset: As for ``load``.
        size: HEIGHTxWIDTH.
        colour: Whether the network sees colours.
        grey: Whether it sees none.
        given: Other fields of OwnPictures.

    Raises:
        SettingsError: The size is none, options contradict each other, or the data set is none of own pictures.
    """
    options = {"size": size, "colour": colour or None, "grey": grey or None, **given}
    named = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if named and kind_of(dataset) is None:
        raise SettingsError(f"{' and '.join(named)}: the images of {dataset} are as they are.")
    if colour and grey:
        raise SettingsError("--colour and --grey: the network sees colours, or it does not. Name one of them.")
    channels = 3 if colour else 1 if grey else None
    chosen = {"size": None if size is None else parse_size(size), "channels": channels, **given}
    return replace(pictures.AS_FITS, **{name: value for name, value in chosen.items() if value is not None})


def load(
    name: str,
    data_dir: Path | None = None,
    limit: int | None = None,
    own: OwnPictures = pictures.AS_FITS,
    image: ImageSpec | None = None,
) -> Dataset:
    """Read a data set by name; ``outfits`` and ``outfits-independent`` are composed from Fashion-MNIST.

    Args:
        name: One of KNOWN, or one of OWN with a path, such as folder:photos.
        data_dir: The folder to read; None for the data set's usual place. Own pictures have theirs in their name.
        limit: How many training and validation samples the run will use at most. No more are composed.
        own: How own pictures are divided and prepared.
        image: What an earlier run made of own pictures, in place of ``own`` and of their mean.

    Raises:
        DataNotFoundError: The data set, or one of its files, is missing and could not be downloaded.
        DataCorruptError: A file cannot be read, its contents are not the published ones, or pictures cannot be divided.
        SettingsError: There is no data set of this name.
    """
    if kind_of(name) is not None:
        return pictures.load(name, own, image)
    if name == "voc2007":
        from hangtag.training.data import voc  # imports torchvision, which is slow and rarely needed

        return voc.load(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == fashion_mnist.NAME else outfits.load(name, garments, limit=limit)
