"""Keep some test pictures and PyTorch's answers in a file, so that later comparisons do not need the run.

`hangtag models verify` compares the file's answers with PyTorch's answers. The server's page shows the pictures.
"""

import base64
import io
import json
from collections.abc import Mapping

import numpy as np
from PIL import Image

from hangtag.export.errors import RecordError
from hangtag.export.network_arrays import Answers, Array, Pixels
from hangtag.training.data.dataset import Classes

IMAGES = 32
_NUMBERS, _LEAST = 1_600, 4
"""For each output, at most _NUMBERS numbers are kept in total, but always the answers for at least _LEAST images."""
_MOST = 16
_MOST_BYTES = 512_000
"""The limit for the total size of all examples. A file keeps fewer examples if its pictures are large."""


def record_answers(expected: Answers, first: Array | None = None) -> dict[str, str]:
    """Return PyTorch's outputs for some of the gate's images, as metadata (keys without prefix).

    Args:
        expected: the answers.
        first: the indices of the images whose answers are kept; None for the first IMAGES images.
    """
    kept = np.arange(IMAGES) if first is None else first
    kept = kept[: max(_LEAST, _NUMBERS // max(values[0].size for values in expected.values()))]
    answers = {name: _round(values[kept[kept < len(values)]]).tolist() for name, values in expected.items()}
    return {"reference": json.dumps(answers, separators=(",", ":"))}


def read_answers(metadata: Mapping[str, str]) -> Answers | None:
    """Read PyTorch's answers to the gate's first images, or to the examples in the file; None if the file has none.

    Raises:
        ValueError, TypeError: the metadata cannot be read.
    """
    if "reference" not in metadata:
        return None
    return {name: np.array(values) for name, values in json.loads(metadata["reference"]).items()}


def _round(values: Array) -> Array:
    """Round to seven digits, the precision of FP32, so that the text is short."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return np.array([float(f"{value:.7g}") for value in values.astype(np.float64).ravel()]).reshape(values.shape)


def choose_examples(answered: Classes, classes: Classes) -> Array:
    """Choose test pictures that the network classifies correctly, taking a picture of each class in turn.

    Args:
        answered: the network's class for each test picture, [n].
        classes: the true class of each test picture, [n].

    Returns:
        The indices of the chosen pictures. If the network classifies no picture correctly, any picture may be chosen.
    """
    right = answered == classes
    candidates = np.flatnonzero(right) if right.any() else np.arange(len(classes))
    turn = np.zeros(len(classes), np.int64)  # for each picture, the number of earlier pictures of its class
    for label in np.unique(classes[candidates]):
        own = candidates[classes[candidates] == label]
        turn[own] = np.arange(len(own))
    ordered = candidates[np.lexsort((classes[candidates], turn[candidates]))]
    first = int((turn[ordered] == 0).sum())  # the number of classes that have a candidate
    return ordered[:_MOST] if first <= _MOST else ordered[np.linspace(0, first - 1, _MOST).astype(int)]


def record_examples(images: Pixels, classes: Classes) -> dict[str, str]:
    """Encode example pictures and their classes as metadata. The keys have no prefix."""
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
    """Read the example pictures and their classes from a file's metadata; None if the file has none.

    Raises:
        RecordError, TypeError, KeyError: the metadata cannot be read.
    """
    if "examples" not in metadata:
        return None
    try:
        kept = json.loads(metadata["examples"])
        images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in kept]
        return np.stack(images), np.array([int(one["label"]) for one in kept])
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise RecordError("examples is damaged") from error


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
