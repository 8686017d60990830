"""Files of the shipped cnn with something changed, which cannot teach."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.kit import shipped

CNN = shipped.latest("cnn")


def changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """The shipped cnn with something changed in it."""
    model = onnx.load(CNN)
    change(model)
    onnx.save(model, path)
    return path


def spoil(model: onnx.ModelProto) -> None:
    """Make the logits NaN."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.6.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), tensor.name))
