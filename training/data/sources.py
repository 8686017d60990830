"""The data sets by name: those that hangtag knows, and the user's own pictures.

Needs no torch, except for ``voc2007``, which torchvision reads.
"""

from pathlib import Path

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data import fashion_mnist, outfits, pictures
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import SettingsError

LABEL_SETS = (*outfits.NAMES, "voc2007")
"""Data sets whose images have a set of labels each."""
KNOWN = (fashion_mnist.NAME, *LABEL_SETS)
VOC_IMAGE = ImageSpec(64, 64)
"""The images that VOC's pictures become; stated here because the reader of VOC needs torchvision."""
_EXAMPLES = {"folder": "folder:photos", "csv": "csv:labels.csv", "idx": "idx:kmnist"}
OWN = tuple(_EXAMPLES)
"""The kinds of the user's own pictures, such as folder in folder:photos."""


def kind_of(name: str) -> str | None:
    """The kind of the user's own pictures, of OWN; None for a data set that hangtag knows.

    Raises:
        SettingsError: The name is neither.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in OWN and place:
        return kind
    if name in KNOWN:
        return None
    if colon and kind in OWN:
        what = "the CSV file that lists your pictures" if kind == "csv" else "the folder of your pictures"
        raise SettingsError(f"--data {name} names nothing: write {what} after the colon, such as {_EXAMPLES[kind]}.")
    raise SettingsError(
        f"--data {name}: there is no such data set; there are {', '.join(KNOWN)}, and your own pictures: "
        "folder:PHOTOS with a folder for each class, csv:FILE.csv with the columns path and label, or idx:FOLDER."
    )


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
        data_dir: The folder to read; None for the data set's usual place. The names of the user's own pictures include
            their folder.
        limit: The most training and validation samples that the run will use. No more are composed.
        own: How the user's own pictures are split and prepared.
        image: How an earlier run prepared the user's pictures; replaces ``own`` and the pictures' mean.

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
