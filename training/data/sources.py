"""Reads data sets by name: the data sets that hangtag knows, and the user's own pictures."""

from pathlib import Path

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data import fashion_mnist, outfits, pictures, voc
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import SettingsError

LABEL_SETS = (*outfits.NAMES, "voc2007")
"""The data sets whose images have sets of labels."""
KNOWN = (fashion_mnist.NAME, *LABEL_SETS)
_EXAMPLES = {"folder": "folder:photos", "csv": "csv:labels.csv", "idx": "idx:kmnist"}
OWN = tuple(_EXAMPLES)
"""The kinds of the user's own pictures, such as folder in folder:photos."""


def kind_of(name: str) -> str | None:
    """Return the kind of the user's own pictures, one of OWN. For a data set that hangtag knows, return None.

    Raises:
        SettingsError: The name is not the name of a known data set, and does not describe the user's own pictures.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in OWN and place:
        return kind
    if name in KNOWN:
        return None
    if colon and kind in OWN:
        what = "the CSV file that lists your pictures" if kind == "csv" else "the folder of your pictures"
        raise SettingsError(f"--data {name} is not complete: write {what} after the colon, such as {_EXAMPLES[kind]}.")
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
    own: OwnPictures = pictures.AS_FITS,
    image: ImageSpec | None = None,
) -> Dataset:
    """Read a data set by name. The data sets ``outfits`` and ``outfits-independent`` are composed from Fashion-MNIST.

    Args:
        name: One of KNOWN, or one of OWN with a path, such as folder:photos.
        data_dir: The folder to read. For None, the data set's usual folder is read. The name of the user's own pictures
            includes their folder.
        limit: The largest number of training samples, and of validation samples, that the run uses. No more samples are
            composed.
        own: How the user's own pictures are split and prepared.
        image: Describes how an earlier run prepared the user's pictures. The pictures are prepared in the same way,
            whatever ``own`` says.

    Raises:
        DataNotFoundError: The data set, or one of its files, is missing and could not be downloaded.
        DataCorruptError: A file cannot be read, its contents are not the published ones, or pictures cannot be divided.
        SettingsError: There is no data set of this name.
    """
    if kind_of(name) is not None:
        return pictures.load(name, own, image)
    if name == "voc2007":
        return voc.load(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == fashion_mnist.NAME else outfits.load(name, garments, limit=limit)
