"""Reads data sets by name, and declares the options of the commands that read a data set."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hangtag.serving.image_spec import FITS, MAX_EDGE, ImageSpec
from hangtag.settings import flag_of, setting
from hangtag.training.data import fashion_mnist, outfits, pictures, voc
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import AS_FITS, OwnPictures
from hangtag.training.errors import SettingsError

LABEL_SETS = (*outfits.NAMES, "voc2007")  # the data sets whose images have sets of labels
IMAGES = {fashion_mnist.NAME: fashion_mnist.IMAGE, **dict.fromkeys(outfits.NAMES, outfits.IMAGE), "voc2007": voc.IMAGE}
KNOWN = tuple(IMAGES)
OWN = ("folder", "csv", "idx")  # the kinds of the user's own pictures, such as folder in folder:photos
# The options that describe the user's own pictures.
_OF_PICTURES = ("size", "colour", "grey", "fit", "validation_share", "test_share", "split_seed")


def kind_of(name: str) -> str | None:
    """Return the kind of the user's own pictures, one of OWN, or None for a data set of hangtag. Raises SettingsError
    for any other name."""
    kind, colon, place = name.partition(":")
    if colon and kind in OWN and place:
        return kind
    if name in KNOWN:
        return None
    if Path(name).exists():
        kind = "folder" if Path(name).is_dir() else "csv"
        raise SettingsError(f"--data {name} is a path. Name its kind too: {kind}:{name}.")
    raise SettingsError(
        f"--data {name}: there is no such data set. Choose from {', '.join(KNOWN)}, and your own pictures: "
        "folder:PHOTOS with a folder for each class, csv:FILE.csv with the columns path and label, or idx:FOLDER."
    )


def load(
    name: str,
    data_dir: Path | None = None,
    limit: int | None = None,
    own: OwnPictures = AS_FITS,
    image: ImageSpec | None = None,
) -> Dataset:
    """Read a data set by name. The data sets ``outfits`` and ``outfits-independent`` are composed from Fashion-MNIST.

    Args:
        name: One of KNOWN, or one of OWN with a path, such as folder:photos.
        data_dir: The folder of a data set in KNOWN, if it is not the data set's usual folder.
        limit: The largest number of training samples, and of validation samples, to compose.
        own: How the user's own pictures are split and prepared.
        image: Describes how an earlier run prepared the user's pictures, and takes precedence over ``own``.

    Raises SettingsError if there is no such data set, and DataNotFoundError or DataCorruptError if it cannot be read.
    """
    if kind_of(name) is not None:
        return pictures.load(name, own, image)
    if name == "voc2007":
        return voc.load(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == fashion_mnist.NAME else outfits.load(name, garments, limit=limit)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options that choose a data set, and that describe how the user's own pictures are prepared. Options that are
    None get a default. If neither colour nor grey is set, the pictures decide."""

    data: str | None = setting(
        None,
        f"The data set: {', '.join(KNOWN)}, or your own pictures: folder:PHOTOS (with PHOTOS/CLASS/*.jpg, or "
        "PHOTOS/train/CLASS and PHOTOS/test/CLASS), csv:FILE (with the columns path, label and optionally split), or "
        "idx:FOLDER (with four files in MNIST's format). 'hangtag data show SOURCE' shows the pictures.  [default: "
        "fashion-mnist, or outfits for a multi-label MODEL]",
        metavar="SOURCE",
    )
    data_dir: Path | None = setting(
        None,
        "The folder with Fashion-MNIST's IDX files, or with VOCdevkit.  [default: Fashion-MNIST from Debian's "
        "package, otherwise from torchvision's download]",
        folder=True,
    )
    size: str | None = setting(
        None,
        "Convert your own pictures to this size.  [default: unchanged if all pictures have the same size of at most "
        "128x128 pixels, otherwise 64x64]",
        metavar="HEIGHTxWIDTH",
    )
    colour: bool = setting(False, "Give the network colour images.  [default: on if any picture has colours]")
    grey: bool = setting(False, "Give the network grey images.")
    fit: str | None = setting(
        None,
        "How to convert pictures of other sizes to --size, in training and serving: stretch, crop to the middle, pad "
        "with the edge's colour, or imitate Fashion-MNIST (garment).  [default: stretch]",
        choices=FITS,
    )
    validation_share: float | None = setting(
        None,
        "The fraction of each class that goes to the validation split, if your own pictures have no validation split.  "
        "[default: 0.1]",
        between=(0.01, 0.5),
    )
    test_share: float | None = setting(
        None,
        "The fraction of each class that goes to the test split, if your own pictures have no test split.  "
        "[default: 0.1]",
        between=(0.01, 0.5),
    )
    split_seed: int | None = setting(
        None,
        "The seed for splitting your own pictures. The split does not depend on --seed.  [default: 0]",
        between=(0, 2**32 - 1),
    )

    @property
    def dataset(self) -> str:
        return self.data or fashion_mnist.NAME

    @property
    def own_pictures(self) -> OwnPictures:
        """How the user's own pictures are split and prepared. Raises SettingsError if the size is not HEIGHTxWIDTH, if
        options contradict each other, or if options for own pictures are given with another data set."""
        given = {name: value for name in _OF_PICTURES if (value := getattr(self, name)) not in (None, False)}
        if given and kind_of(self.dataset) is None:
            declared = type(self).__dataclass_fields__
            options = " and ".join(flag_of(declared[name]) for name in given)
            raise SettingsError(f"{options}: use this only with your own pictures, not with {self.dataset}.")
        if self.colour and self.grey:
            raise SettingsError("--colour and --grey contradict each other. Give only one of them.")
        if (match := re.fullmatch(r"(\d{1,4})x(\d{1,4})", self.size or "")) is not None:
            given["size"] = int(match[1]), int(match[2])
        if self.size and not (match and all(1 <= edge <= MAX_EDGE for edge in given["size"])):
            raise SettingsError(
                f"--size {self.size}: write HEIGHTxWIDTH in pixels, such as 64x64; the maximum is {MAX_EDGE}."
            )
        if given.pop("colour", False) or given.pop("grey", False):
            given["channels"] = 3 if self.colour else 1
        return replace(AS_FITS, **given)
