"""Store PyTorch's answers in the file, so that `hangtag models verify` can compare with them where there is no run.

The complete answers to the first images of the gate; and, where each image has one label, the most probable label of
each image of the test set, one byte each or, of more than 256 labels, two, compressed.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hangtag.export.arrays import Answers, Array

IMAGES = 32
_NUMBERS, _LEAST = 1_600, 4
"""Of each output so many numbers are kept at most, of at least so many images: very many labels are long."""


@dataclass(frozen=True)
class ReferenceAnswers:
    """PyTorch's answers, as a file holds them."""

    answers: Answers
    """To the first images of the gate, or to the examples in the file."""
    labels: Array | None
    """The most probable label of each image of the test set, [n]; None where an image has several labels."""


def record(expected: Answers, *, one_label: bool, first: Array | None = None) -> dict[str, str]:
    """Turn PyTorch's answers to the gate's images into metadata (keys without their prefix).

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


def read(metadata: Mapping[str, str]) -> ReferenceAnswers | None:
    """Read the answers from a file's metadata; None for a file without any.

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
    return ReferenceAnswers(answers, labels)


def _index_type(labels: int) -> str:
    """The type of an index into so many labels, as files hold it."""
    return "u1" if labels <= 256 else "<u2"


def _round(values: Array) -> Array:
    """Round to seven digits, as many as FP32 has, so that the text is short."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return np.array([float(f"{value:.7g}") for value in values.astype(np.float64).ravel()]).reshape(values.shape)
