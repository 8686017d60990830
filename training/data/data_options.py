"""The options of commands that read a data set: the data set's name and folder, and how the user's own pictures are
split and prepared."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hangtag.serving.image_spec import FITS, MAX_EDGE
from hangtag.settings import flag_of, setting
from hangtag.training.data import sources
from hangtag.training.data.pictures import AS_FITS, OwnPictures
from hangtag.training.errors import SettingsError

_OF_PICTURES = ("size", "colour", "grey", "fit", "validation_share", "test_share", "split_seed")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options that choose a data set, and that describe how the user's own pictures are prepared.

    Options that are None get a default. If neither colour nor grey is set, the pictures decide.

    Example:
        >>> DataOptions(data="folder:photos", size="64x64").own_pictures.size
        (64, 64)
    """

    data: str | None = setting(
        None,
        f"The data set: {', '.join(sources.KNOWN)}, or your own pictures: folder:PHOTOS (with PHOTOS/CLASS/*.jpg, or "
        "PHOTOS/train/CLASS and PHOTOS/test/CLASS), csv:FILE (with the columns path, label and optionally split), or "
        "idx:FOLDER (with four files in MNIST's format). 'hangtag data show SOURCE' shows the pictures.  [default: "
        "fashion-mnist; for several labels, outfits]",
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
        "The share of each class that goes to the validation split, if your own pictures have no validation split.  "
        "[default: 0.1]",
        between=(0.01, 0.5),
    )
    test_share: float | None = setting(
        None,
        "The share of each class that goes to the test split, if your own pictures have no test split.  [default: 0.1]",
        between=(0.01, 0.5),
    )
    split_seed: int | None = setting(
        None,
        "The seed for splitting your own pictures. The split does not depend on --seed.  [default: 0]",
        between=(0, 2**32 - 1),
    )

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        assert self.data is not None
        return self.data

    @property
    def own_pictures(self) -> OwnPictures:
        """How the user's own pictures are split and prepared.

        Raises:
            SettingsError: The size is not HEIGHTxWIDTH, options contradict each other, or options for own pictures are
                given with another data set.
        """
        given = {name: value for name in _OF_PICTURES if (value := getattr(self, name)) not in (None, False)}
        if given and sources.kind_of(self.dataset) is None:
            declared = type(self).__dataclass_fields__
            options = " and ".join(flag_of(declared[name]) for name in given)
            raise SettingsError(f"{options}: use this only with your own pictures, not with {self.dataset}.")
        if self.colour and self.grey:
            raise SettingsError("--colour and --grey contradict each other. Give only one of them.")
        for name, channels in (("colour", 3), ("grey", 1)):
            if given.pop(name, False):
                given["channels"] = channels
        return replace(AS_FITS, **given | ({"size": _parsed(self.size)} if self.size else {}))


def _parsed(size: str) -> tuple[int, int]:
    """Return height and width from a text HEIGHTxWIDTH. Raises SettingsError for a text of another form."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    if match is None or not all(1 <= int(edge) <= MAX_EDGE for edge in match.groups()):
        raise SettingsError(f"--size {size}: write HEIGHTxWIDTH in pixels, such as 64x64; the maximum is {MAX_EDGE}.")
    return int(match[1]), int(match[2])
