"""Keep some of a classifier's test pictures in its file, for the page that tries it and for `hangtag models verify`."""

import base64
import io
import json
from collections.abc import Mapping

import numpy as np
from PIL import Image

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.training.data.dataset import Classes

MOST = 16
MOST_BYTES = 512_000
"""Of all examples together. Large pictures are fewer."""


def choose(expected: Answers, classes: Classes) -> Array:
    """Choose test pictures that the network answers rightly, of as many classes as possible, in turns.

    Args:
        expected: the network's answers to the test pictures.
        classes: the true class of each, [n].

    Returns:
        Their indices. Where nothing is answered rightly, the first pictures.
    """
    right = expected["logits"].argmax(axis=1) == classes
    candidates = np.flatnonzero(right) if right.any() else np.arange(len(classes))
    turn = np.zeros(len(classes), np.int64)  # how many of its class come before a picture
    for label in np.unique(classes[candidates]):
        own = candidates[classes[candidates] == label]
        turn[own] = np.arange(len(own))
    ordered = candidates[np.lexsort((classes[candidates], turn[candidates]))]
    first = int((turn[ordered] == 0).sum())  # one of each class
    return ordered[:MOST] if first <= MOST else ordered[np.linspace(0, first - 1, MOST).astype(int)]


def record(images: Pixels, classes: Classes) -> dict[str, str]:
    """Turn pictures and their classes into metadata (keys without their prefix)."""
    kept: list[dict[str, object]] = []
    size = 0
    for pixels, label in zip(images, classes, strict=True):
        encoded = base64.b64encode(_png(pixels)).decode()
        size += len(encoded)
        if kept and size > MOST_BYTES:
            break
        kept.append({"label": int(label), "png": encoded})
    return {"examples": json.dumps(kept)}


def read(metadata: Mapping[str, str]) -> tuple[Pixels, Classes] | None:
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
