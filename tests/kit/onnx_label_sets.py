"""Build small real ONNX models that answer with label sets. The pixels determine the answer, so a test can choose it.

image UINT8 [batch, 64, 64]: the first ten pixels of row 0 are the labels' probabilities, in 255ths; the first five of
row 1 the path, as one more than each label, 0 for none; the first of row 2 the path's probability, in 255ths.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from tests.kit.onnx_models import LABELS, model, publish

SIZE = 64
DISTANCES = [[abs(i - j) / 10 for j in range(10)] for i in range(10)]


def image(probabilities: Sequence[int], path: Sequence[int] = (), path_probability: int = 0) -> npt.NDArray[np.uint8]:
    """The image [64, 64] with this answer; probabilities in 255ths, the path's labels from 0."""
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[0, : len(probabilities)] = probabilities
    pixels[1, : len(path)] = np.array(path, np.uint8) + 1
    pixels[2, 0] = path_probability
    return pixels


def label_path(**metadata: str) -> onnx.ModelProto:
    """path INT64 [batch, 5], path_probability FP32 [batch], probabilities FP32 [batch, 10]: as CNN-RNN's."""
    nodes, constants = _probabilities()
    nodes += [
        *_pixels("path_pixels", "path_begin", "path_end"),
        helper.make_node("Cast", ["path_pixels"], ["path_numbers"], to=TensorProto.INT64),
        helper.make_node("Sub", ["path_numbers", "one"], ["path"]),
        *_pixels("certain_pixels", "certain_begin", "certain_end"),
        helper.make_node("Cast", ["certain_pixels"], ["certain"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["certain", "most"], ["certain_rows"]),
        helper.make_node("Squeeze", ["certain_rows", "rows"], ["path_probability"]),
    ]
    constants |= {
        "path_begin": np.array([1, 0]), "path_end": np.array([2, 5]), "one": np.array(1),
        "certain_begin": np.array([2, 0]), "certain_end": np.array([3, 1]),
    }  # fmt: skip
    outputs: dict[str, tuple[int, Sequence[int | str]]] = {
        "path": (TensorProto.INT64, ["batch", 5]),
        "path_probability": (TensorProto.FLOAT, ["batch"]),
        "probabilities": (TensorProto.FLOAT, ["batch", 10]),
    }
    return model(nodes, _IMAGE, outputs, constants, _metadata(metadata))


def label_threshold(**metadata: str) -> onnx.ModelProto:
    """probabilities FP32 [batch, 10]: the threshold in the metadata selects the set."""
    nodes, constants = _probabilities()
    outputs: dict[str, tuple[int, Sequence[int | str]]] = {"probabilities": (TensorProto.FLOAT, ["batch", 10])}
    return model(nodes, _IMAGE, outputs, constants, _metadata(metadata))


_IMAGE: dict[str, tuple[int, Sequence[int | str]]] = {"image": (TensorProto.UINT8, ["batch", SIZE, SIZE])}


def _probabilities() -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    nodes = [
        *_pixels("pixels", "begin", "end"),
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "most"], ["probabilities"]),
    ]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "begin": np.array([0, 0]), "end": np.array([1, 10]), "axes": np.array([1, 2]), "rows": np.array([1]),
        "most": np.array(255, np.float32),
    }  # fmt: skip
    return nodes, constants


def _pixels(name: str, begin: str, end: str) -> list[onnx.NodeProto]:
    """Some pixels [batch, n] of one row."""
    return [
        helper.make_node("Slice", ["image", begin, end, "axes"], [f"{name}_row"]),
        helper.make_node("Squeeze", [f"{name}_row", "rows"], [name]),
    ]


def _metadata(changed: dict[str, str]) -> dict[str, str]:
    metadata = {"task": "multi_label", "labels": json.dumps(LABELS)} | changed
    return {f"hangtag.{key}": value for key, value in metadata.items()}


def publish_all(models: Path) -> None:
    """Publish a model with a path, one with a threshold, and one with single labels and their distances."""
    publish(models, "path", label_path())
    publish(models, "half", label_threshold())
    publish(models, "rivals", label_threshold(task="single_label", label_distances=json.dumps(DISTANCES)))
