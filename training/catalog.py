"""Data sets by name, and which one a model learns from."""

from pathlib import Path

from hangtag.training.data import fashion_mnist, outfits
from hangtag.training.data.datasets import DATASETS, MULTI_LABEL, SINGLE_LABEL
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.data.multi_label import MultiLabelData
from hangtag.training.losses.multi_label import OBJECTIVES
from hangtag.training.networks.single_label import MODELS

__all__ = ["ALL_MODELS", "DATASETS", "MULTI_LABEL", "SINGLE_LABEL", "load", "pick"]

ALL_MODELS = (*MODELS, *OBJECTIVES)


def pick(name: str | None, model: str) -> str:
    """The named data set, or the model's own for None. Raises KeyError with a message if it cannot learn from it."""
    fitting = MULTI_LABEL if model in OBJECTIVES else (SINGLE_LABEL,)
    if name is None:
        return fitting[0]
    if name not in fitting:
        raise KeyError(f"{model} cannot learn from {name}: it takes {' or '.join(fitting)}.")
    return name


def load(name: str, data_dir: Path | None, limit: int | None = None) -> FashionMnist | MultiLabelData:
    """Read a data set from the folder, or from where it usually lies; compose it, if it is ``outfits``.

    limit: how many training and validation samples will be used at most; what is composed is no more.

    Raises DataNotFoundError and DataCorruptError as the data sets do.
    """
    if name == "voc2007":
        from hangtag.training.data.voc import load as load_voc  # torchvision is slow to import, and rarely needed

        return load_voc(data_dir)
    garments = fashion_mnist.load(data_dir)
    return garments if name == SINGLE_LABEL else outfits.load(name, garments, limit=limit)
