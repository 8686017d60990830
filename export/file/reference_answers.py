"""What PyTorch answered, kept in the file, so that `hangtag models verify` can compare with it where there is no run.

The whole answers to the first images of the exam; and, where one label is right, the most probable label of each image
of the test set, a byte each, compressed.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hangtag.export.gate.runtime_answers import Answers, Array

IMAGES = 32


@dataclass(frozen=True)
class Reference:
    """answers: PyTorch's, by output, to the first images of the exam; labels: its most probable one for each image of
    the test set [n], None where there is not one."""

    answers: Answers
    labels: Array | None


def record(expected: Answers, *, one_label: bool) -> dict[str, str]:
    """PyTorch's answers to the exam's images, as metadata (keys without their prefix)."""
    kept = {name: _round(values[:IMAGES]).tolist() for name, values in expected.items()}
    written = {"reference": json.dumps(kept, separators=(",", ":"))}
    if one_label:
        labels = expected["logits"].argmax(axis=1).astype(np.uint8)
        written["reference_labels"] = base64.urlsafe_b64encode(zlib.compress(labels.tobytes(), 9)).decode()
    return written


def read(metadata: Mapping[str, str]) -> Reference | None:
    """From a file's metadata; None for a file that has none. Raises ValueError for what cannot be read."""
    if "reference" not in metadata:
        return None
    answers = {name: np.array(values) for name, values in json.loads(metadata["reference"]).items()}
    labels = None
    if "reference_labels" in metadata:
        try:
            packed = zlib.decompress(base64.urlsafe_b64decode(metadata["reference_labels"]))
        except zlib.error as error:
            raise ValueError(f"reference_labels cannot be unpacked ({error})") from error
        labels = np.frombuffer(packed, np.uint8)
    return Reference(answers, labels)


def _round(values: Array) -> Array:
    """To seven digits, as many as FP32 has, so that the text is short."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return np.array([float(f"{value:.7g}") for value in values.astype(np.float64).ravel()]).reshape(values.shape)
