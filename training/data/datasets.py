"""The data sets by name. Needs no torch, except for ``voc2007``, which torchvision reads."""

from pathlib import Path

from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.data.multi_label import MultiLabelData

SINGLE_LABEL = "fashion-mnist"
MULTI_LABEL = (*outfits.NAMES, "voc2007")
DATASETS = (SINGLE_LABEL, *MULTI_LABEL)


def load(name: str, data_dir: Path | None = None, limit: int | None = None) -> FashionMnist | MultiLabelData:
    """Read a data set by name; ``outfits`` and ``outfits-independent`` are composed from Fashion-MNIST.

    Args:
        name: One of DATASETS.
        data_dir: The folder to read; None for the data set's usual place.
        limit: How many training and validation samples the run will use at most. No more are composed.

    Raises:
        DataNotFoundError: The data set, or one of its files, is missing and could not be downloaded.
        DataCorruptError: A file cannot be read, or its contents are not the published ones.
    """
    if name == "voc2007":
        from hangtag.training.data import voc  # imports torchvision, which is slow and rarely needed

        return voc.load(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == SINGLE_LABEL else outfits.load(name, garments, limit=limit)
