"""Keep what a file can be compared with where there is no run: PyTorch's answers, and some test pictures as examples.

`hangtag models verify` compares with the complete answers to the first images of the gate and, where each image has one
label, with the most probable label of each image of the test set. The page that tries a model shows the examples.
"""

import base64
import io
import json
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.training.data.dataset import Classes

IMAGES = 32
_NUMBERS, _LEAST = 1_600, 4
"""Of each output so many numbers are kept at most, of at least so many images: very many labels are long."""
_MOST = 16
_MOST_BYTES = 512_000
"""Of all examples together. Large pictures are fewer."""


def record_answers(expected: Answers, *, one_label: bool, first: Array | None = None) -> dict[str, str]:
    """Turn PyTorch's answers to the gate's images into metadata (keys without their prefix).

    The most probable labels take one byte each or, of more than 256 labels, two, compressed.

    Args:
        expected: the answers.
        one_label: whether each image has one label.
        first: indices of the images whose answers are kept whole; None for the first IMAGES.
    """
    kept = np.arange(IMAGES) if first is None else first
    kept = kept[: max(_LEAST, _NUMBERS // max(values[0].size for values in expected.values()))]
    whole = {name: _round(values[kept[kept < len(values)]]).tolist() for name, values in expected.items()}
    metadata = {"reference": json.dumps(whole, separators=(",", ":"))}
    if one_label:
        logits = expected["logits"]
        labels = logits.argmax(axis=1).astype(_index_type(logits.shape[1]))
        metadata["reference_labels"] = base64.urlsafe_b64encode(zlib.compress(labels.tobytes(), 9)).decode()
    return metadata


def read_answers(metadata: Mapping[str, str]) -> tuple[Answers, Array | None] | None:
    """Read PyTorch's answers from a file's metadata; None for a file without any.

    Returns:
        The complete answers to the first images of the gate, or to the examples in the file; and the most probable
        label of each image of the test set, [n], or None where an image has several labels.

    Raises:
        ValueError: they cannot be read.
    """
    if "reference" not in metadata:
        return None
    answers = {name: np.array(values) for name, values in json.loads(metadata["reference"]).items()}
    labels = None
    if "reference_labels" in metadata:
        try:
            content = zlib.decompress(base64.urlsafe_b64decode(metadata["reference_labels"]))
        except zlib.error as error:
            raise ValueError(f"reference_labels cannot be unpacked ({error})") from error
        labels = np.frombuffer(content, _index_type(len(json.loads(metadata["labels"]))))
    return answers, labels


def _index_type(labels: int) -> str:
    """The type of an index into so many labels, as files hold it."""
    return "u1" if labels <= 256 else "<u2"


def _round(values: Array) -> Array:
    """Round to seven digits, as many as FP32 has, so that the text is short."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return np.array([float(f"{value:.7g}") for value in values.astype(np.float64).ravel()]).reshape(values.shape)


def choose_examples(answered: Classes, classes: Classes) -> Array:
    """Choose test pictures that the network answers rightly, of as many classes as possible, in turns.

    Args:
        answered: the class that the network gives each test picture, [n].
        classes: the true class of each, [n].

    Returns:
        Their indices. Where nothing is answered rightly, the first pictures.
    """
    right = answered == classes
    candidates = np.flatnonzero(right) if right.any() else np.arange(len(classes))
    turn = np.zeros(len(classes), np.int64)  # how many of its class come before a picture
    for label in np.unique(classes[candidates]):
        own = candidates[classes[candidates] == label]
        turn[own] = np.arange(len(own))
    ordered = candidates[np.lexsort((classes[candidates], turn[candidates]))]
    first = int((turn[ordered] == 0).sum())  # one of each class
    return ordered[:_MOST] if first <= _MOST else ordered[np.linspace(0, first - 1, _MOST).astype(int)]


def record_examples(images: Pixels, classes: Classes) -> dict[str, str]:
    """Turn pictures and their classes into metadata (keys without their prefix)."""
    kept: list[dict[str, object]] = []
    size = 0
    for pixels, label in zip(images, classes, strict=True):
        encoded = base64.b64encode(_png(pixels)).decode()
        size += len(encoded)
        if kept and size > _MOST_BYTES:
            break
        kept.append({"label": int(label), "png": encoded})
    return {"examples": json.dumps(kept)}


def read_examples(metadata: Mapping[str, str]) -> tuple[Pixels, Classes] | None:
    """Read the pictures of a file's metadata, and their classes; None for a file without any.

    Raises:
        ValueError: they cannot be read.
    """
    if "examples" not in metadata:
        return None
    try:
        kept = json.loads(metadata["examples"])
        images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in kept]
        return np.stack(images), np.array([int(one["label"]) for one in kept])
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(f"examples cannot be read ({error})") from error


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
