"""The options of commands that read a data set: its name, its place, and how the user's own pictures are split and
prepared."""

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
    """A data set, and how the user's own pictures are prepared. None, or neither colour nor grey, lets the pictures
    decide.

    Example:
        >>> DataOptions(data="folder:photos", size="64x64").own_pictures.size
        (64, 64)
    """

    data: str | None = setting(
        None,
        f"What to learn from: {', '.join(sources.KNOWN)}; or your own pictures: folder:PHOTOS (PHOTOS/CLASS/*.jpg, or "
        "PHOTOS/train/CLASS and PHOTOS/test/CLASS), csv:FILE (with the columns path, label and perhaps split), "
        "idx:FOLDER (four files as MNIST has them). 'hangtag data show SOURCE' shows them.  [default: fashion-mnist; "
        "outfits for the networks for several labels]",
        metavar="SOURCE",
    )
    data_dir: Path | None = setting(
        None,
        "Folder with Fashion-MNIST's IDX files, or with VOCdevkit.  [default: Debian's package for Fashion-MNIST, else "
        "a download by torchvision]",
        folder=True,
    )
    size: str | None = setting(
        None,
        "Convert your own pictures to this size.  [default: unchanged if all have the same size of at most 128 "
        "pixels; else 64x64]",
        metavar="HEIGHTxWIDTH",
    )
    colour: bool = setting(False, "The network sees colours.  [default: if a picture has colours]")
    grey: bool = setting(False, "The network sees no colours.")
    fit: str | None = setting(
        None,
        "How pictures of other sizes are converted to --size, in training and in serving: stretched, cropped to the "
        "middle, padded with the edge's colour, or converted like Fashion-MNIST's garments.  [default: stretch]",
        choices=FITS,
    )
    validation_share: float | None = setting(
        None,
        "The share of each class's pictures that chooses the best epoch, if your own pictures have no validation "
        "split.  [default: 0.1]",
        between=(0.01, 0.5),
    )
    test_share: float | None = setting(
        None,
        "The share of each class's pictures that measures the result, if your own pictures have no test split.  "
        "[default: 0.1]",
        between=(0.01, 0.5),
    )
    split_seed: int | None = setting(
        None,
        "The seed for splitting your own pictures, separate from --seed, so that runs with different seeds can be "
        "compared.  [default: 0]",
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
            SettingsError: The size is not HEIGHTxWIDTH, options contradict each other, or the data set is not the
                user's own.
        """
        given = {name: value for name in _OF_PICTURES if (value := getattr(self, name)) not in (None, False)}
        if given and sources.kind_of(self.dataset) is None:
            declared = type(self).__dataclass_fields__
            options = " and ".join(flag_of(declared[name]) for name in given)
            raise SettingsError(f"{options}: only for your own pictures, not for {self.dataset}.")
        if self.colour and self.grey:
            raise SettingsError("--colour and --grey: give only one of them.")
        for name, channels in (("colour", 3), ("grey", 1)):
            if given.pop(name, False):
                given["channels"] = channels
        return replace(AS_FITS, **given | ({"size": _parsed(self.size)} if self.size else {}))


def _parsed(size: str) -> tuple[int, int]:
    """Height and width of HEIGHTxWIDTH. Raises SettingsError for another text."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    if match is None or not all(1 <= int(edge) <= MAX_EDGE for edge in match.groups()):
        raise SettingsError(f"--size {size}: write HEIGHTxWIDTH in pixels, such as 64x64, of at most {MAX_EDGE} each.")
    return int(match[1]), int(match[2])
