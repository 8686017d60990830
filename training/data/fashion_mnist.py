"""Fashion-MNIST: finds the files, compares their SHA-256 digests with the published digests, and splits the images.

If --data-dir is given, only this folder is searched. Otherwise the files come from Debian's package
``dataset-fashion-mnist`` or, if it is not installed, from torchvision's download in the cache. torchvision downloads
the files if the cache does not hold them.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hangtag import idx
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Dataset, Split
from hangtag.training.errors import DataCorruptError, DataNotFoundError

LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
VALIDATION_SIZE = 5_000
"""As in the study, the first 5,000 of the 60,000 training images are for validation, and the others for training."""

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_LAYOUT = Path("FashionMNIST", "raw")

# The SHA-256 of the decompressed content. The .gz files differ, because mirrors recompress the files.
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DIGEST = hashlib.sha256("".join(DIGESTS.values()).encode()).hexdigest()
"""The digest of the whole data set: the SHA-256 of the files' digests, in the order of DIGESTS."""
HOW_TO_GET_IT = (
    "Install Debian's package (apt-get install dataset-fashion-mnist), or use --data-dir to name the folder "
    "that holds the four IDX files (*-ubyte or *-ubyte.gz)."
)

IMAGE = ImageSpec(28, 28, fit="garment")
NAME = "fashion-mnist"


def load(data_dir: Path | None = None) -> Dataset:
    """Read the data set from its four IDX files in ``data_dir`` or, by default, in the usual folders, and split it.
    Raises DataNotFoundError if the files are not in the folder, or could not be downloaded, and DataCorruptError if a
    file cannot be read, or differs from the published file."""
    folder = locate(data_dir)
    train, test = _split(folder, "train"), _split(folder, "t10k")
    return Dataset(
        name=NAME,
        labels=LABELS,
        image=IMAGE,
        train=Split(train.images[VALIDATION_SIZE:], train.classes[VALIDATION_SIZE:]),
        validation=train.first(VALIDATION_SIZE),
        test=test,
        source=str(folder),
        digest=DIGEST,  # a constant, because files with another digest are refused
    )


def load_test(data_dir: Path | None = None) -> Split:
    """Read and check only the 10,000 test images. Raises the same errors as load()."""
    return _split(locate(data_dir), "t10k")


def label_distances(labels: Sequence[str]) -> dict[str, Any] | None:
    """Return the distances of Fashion-MNIST's labels, which show how bad a mistake is. Returns None for other labels.

    "distances" [labels][labels] are the cosine distances of the labels' rows in the last layer of a trained network,
    divided by the largest distance. "provenance" names the network.
    """
    known: dict[str, Any] = json.loads(Path(__file__).with_name("label_distances.json").read_text(encoding="utf-8"))
    return known if known["labels"] == list(labels) else None


def locate(data_dir: Path | None = None, *, download: bool = True) -> Path:
    """Return the folder that holds the four files. If ``data_dir`` is given, only this folder is searched. Raises
    DataNotFoundError if the files are missing. Unless ``download`` is true, missing files are not downloaded."""
    folders = (data_dir or DEBIAN_DIR, (data_dir or cache_dir()) / TORCHVISION_LAYOUT)
    missing = {folder: [name for name in DIGESTS if not _find(folder, name)] for folder in folders}
    folder = min(folders, key=lambda folder: len(missing[folder]))
    if not missing[folder]:
        return folder
    if data_dir is not None:
        raise DataNotFoundError(f"{folder} lacks {', '.join(missing[folder])} (with or without .gz). {HOW_TO_GET_IT}")
    if not download:
        raise DataNotFoundError(f"Fashion-MNIST is not on this machine. {HOW_TO_GET_IT}")
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(root=str(cache_dir()), train=True, download=True)
    # torchvision may be missing, and its download can raise many kinds of exceptions
    except Exception as error:
        why = " ".join(str(error).split())
        raise DataNotFoundError(
            f"Fashion-MNIST is not on this machine and could not be downloaded ({why}). {HOW_TO_GET_IT}"
        ) from error
    return cache_dir() / TORCHVISION_LAYOUT


def cache_dir() -> Path:
    """Return the folder of downloads: $XDG_CACHE_HOME/hangtag if this variable is set, otherwise ~/.cache/hangtag."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hangtag"


def _find(folder: Path, name: str) -> Path | None:
    try:
        return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
    except OSError as error:  # for example, the user has no permission to read the folder
        raise DataNotFoundError(f"{folder} cannot be read ({error.strerror}). {HOW_TO_GET_IT}") from error


def _split(folder: Path, name: str) -> Split:
    images = np.frombuffer(_read_checked(folder, f"{name}-images-idx3-ubyte"), np.uint8, offset=16)
    classes = np.frombuffer(_read_checked(folder, f"{name}-labels-idx1-ubyte"), np.uint8, offset=8)
    return Split(images.reshape(-1, 28, 28), classes)  # the offsets skip the headers


def _read_checked(folder: Path, name: str) -> bytes:
    path = _find(folder, name) or folder / name
    content = idx.unpacked(path, HOW_TO_GET_IT)
    if (digest := hashlib.sha256(content).hexdigest()) != DIGESTS[name]:
        raise DataCorruptError(
            f"{path} is not the published file: the SHA-256 of the decompressed content is {digest}, and not "
            f"{DIGESTS[name]}. If the file is left from an interrupted download, delete it. {HOW_TO_GET_IT}"
        )
    return content
