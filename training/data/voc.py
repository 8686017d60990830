"""PASCAL VOC 2007, read with torchvision, as 64x64 grey images. An image's labels are the classes of its objects.

The CNN-RNN paper used this data set. VOC's own splits have 2,501 training, 2,510 validation and 4,952 test images.
"""

import hashlib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
from PIL import UnidentifiedImageError

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Dataset, Images, LabelSets, Split
from hangtag.training.data.fashion_mnist import cache_dir
from hangtag.training.errors import DataCorruptError, DataNotFoundError

LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IMAGE = ImageSpec(64, 64)
_IMAGE_SETS = {"train": "train", "validation": "val", "test": "test"}
_FOLDER = Path("VOCdevkit", "VOC2007")
_HOW_TO_GET_IT = "Unpack both archives, and use --data-dir to name the folder that holds VOCdevkit/VOC2007."


def load(data_dir: Path | None = None) -> Dataset:
    """Read the three splits from the folder that holds VOCdevkit. For None, download the data set into the cache.
    Raises DataNotFoundError if a file is missing and could not be downloaded, and DataCorruptError if a file cannot be
    read, or if an object is of an unknown class."""
    root = data_dir or cache_dir() / "voc2007"
    splits: dict[str, Any] = {
        split: _read(root, image_set, may_download=data_dir is None) for split, image_set in _IMAGE_SETS.items()
    }
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update(split.images.tobytes())
        digest.update(split.classes.tobytes())
    return Dataset("voc2007", LABELS, IMAGE, source=str(root), digest=digest.hexdigest(), **splits)


def _read(root: Path, image_set: str, may_download: bool) -> Split:
    listed = (root / _FOLDER / "ImageSets" / "Main" / f"{image_set}.txt").is_file()
    if not (listed or may_download):
        raise DataNotFoundError(f"{root} lacks {_FOLDER}/ImageSets/Main/{image_set}.txt. {_HOW_TO_GET_IT}")
    try:
        from torchvision.datasets import VOCDetection

        root.mkdir(parents=True, exist_ok=True)
        samples = VOCDetection(str(root), year="2007", image_set=image_set, download=not listed)
    # torchvision's download can raise many kinds of exceptions
    except Exception as error:
        why = " ".join(str(error).split())
        raise DataNotFoundError(
            f"VOC 2007 is not on this machine and could not be downloaded ({why}). {_HOW_TO_GET_IT}"
        ) from error
    images: Images = np.empty((len(samples), *IMAGE.shape), np.uint8)
    labels: LabelSets = np.zeros((len(samples), len(LABELS)), np.bool_)
    for index in range(len(samples)):
        try:
            image, annotation = samples[index]
        except FileNotFoundError as error:
            raise DataNotFoundError(f"{error.filename} is missing. {_HOW_TO_GET_IT}") from error
        except (OSError, UnidentifiedImageError, ParseError) as error:
            raise DataCorruptError(f"{samples.images[index]} or its annotation cannot be read ({error}).") from error
        images[index] = IMAGE.prepare(image.convert("L"))
        # Objects marked "difficult" count too, because some images show no other objects.
        names = {item["name"] for item in annotation["annotation"].get("object", [])}
        if unknown := sorted(names - set(LABELS)):
            raise DataCorruptError(f"{samples.images[index]} shows {', '.join(unknown)}, which VOC 2007 does not have.")
        if not names:
            raise DataCorruptError(f"{samples.images[index]} has no object in its annotation.")
        labels[index] = [label in names for label in LABELS]
    return Split(images, labels)
