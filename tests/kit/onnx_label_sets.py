"""Builds small ONNX models that answer with label sets. A test chooses the answer by the pixels of the image.

The input is image UINT8 [batch, 64, 64]. Three rows of pixels encode the answer. Row 0 begins with the labels' ten
probabilities, in units of 1/255. Row 1 begins with the path: five pixels, each a label's index plus 1, or 0 for no
label. Row 2 begins with the path's probability, in units of 1/255.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from tests.kit.onnx_models import LABELS, from_text, publish

SIZE = 64
DISTANCES = [[abs(i - j) / 10 for j in range(10)] for i in range(10)]


def image(probabilities: Sequence[int], path: Sequence[int] = (), path_probability: int = 0) -> npt.NDArray[np.uint8]:
    """An image [64, 64] to which the models give this answer. Probabilities are in units of 1/255, and label
    indices start at 0."""
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[0, : len(probabilities)] = probabilities
    pixels[1, : len(path)] = np.array(path, np.uint8) + 1
    pixels[2, 0] = path_probability
    return pixels


def label_path(**metadata: str) -> onnx.ModelProto:
    """A model with CNN-RNN's outputs: path INT64 [batch, 5], path_probability [batch], probabilities [batch, 10]."""
    return from_text(
        f"""({_IMAGE}) => (int64[batch, 5] path, float[batch] path_probability, {_PROBABILITIES})
        <{_CONSTANTS}, int64[2] path_begin = {{1, 0}}, int64[2] path_end = {{2, 5}}, int64 one = {{1}},
        int64[2] certain_begin = {{2, 0}}, int64[2] certain_end = {{3, 1}}> {{
            {_NODES}
            path_row = Slice(image, path_begin, path_end, axes)
            path_pixels = Squeeze(path_row, rows)
            path_numbers = Cast <to = 7> (path_pixels)
            path = Sub(path_numbers, one)
            certain_row = Slice(image, certain_begin, certain_end, axes)
            certain_pixels = Squeeze(certain_row, rows)
            certain = Cast <to = 1> (certain_pixels)
            certain_rows = Div(certain, most)
            path_probability = Squeeze(certain_rows, rows)
        }}""",
        _metadata(metadata),
    )


def label_threshold(**metadata: str) -> onnx.ModelProto:
    """A model with the output probabilities FP32 [batch, 10]. By default, a threshold chooses a set of labels."""
    return from_text(f"({_IMAGE}) => ({_PROBABILITIES}) <{_CONSTANTS}> {{ {_NODES} }}", _metadata(metadata))


_IMAGE, _PROBABILITIES = f"uint8[batch, {SIZE}, {SIZE}] image", "float[batch, 10] probabilities"
_CONSTANTS = """int64[2] begin = {0, 0}, int64[2] end = {1, 10}, int64[2] axes = {1, 2}, int64[1] rows = {1},
        float most = {255}"""
_NODES = """row = Slice(image, begin, end, axes)
            pixels = Squeeze(row, rows)
            numbers = Cast <to = 1> (pixels)
            probabilities = Div(numbers, most)"""


def _metadata(changed: dict[str, str]) -> dict[str, str]:
    image = {"height": SIZE, "width": SIZE, "fit": "garment"}
    metadata = {"task": "multi_label", "labels": json.dumps(LABELS), "image": json.dumps(image)} | changed
    return {f"hangtag.{key}": value for key, value in metadata.items()}


def publish_all(models: Path) -> None:
    """Publish the models ``path``, ``half`` (with a threshold) and ``rivals`` (one label, with label distances)."""
    publish(models, "path", label_path())
    publish(models, "half", label_threshold())
    publish(models, "rivals", label_threshold(task="single_label", label_distances=json.dumps(DISTANCES)))
