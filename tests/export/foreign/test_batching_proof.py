"""How far an answer may depend on the other samples of its batch: more where layers round to 8 bits."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hangtag.export.foreign.probe import probe
from tests.kit.onnx_models import Shape, model

FIXED = [
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["steps"]),
    helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["rounded"]),
]
BY_BATCH = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["found", "found_scale", "found_zero"]),
    helper.make_node("DequantizeLinear", ["found", "found_scale", "found_zero"], ["again"]),
]


def shifted_by_the_batch(rounding: list[onnx.NodeProto], source: str, share: float) -> onnx.ModelProto:
    """Adds to each sample this share of the mean over all samples of the batch."""
    io: dict[str, tuple[int, Shape]] = {"x": (TensorProto.FLOAT, ["batch", 3])}
    return model(
        [
            *rounding,
            helper.make_node("ReduceMean", ["x", "samples"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "share"], ["shift"]),
            helper.make_node("Add", [source, "shift"], ["y"]),
        ],
        io,
        {"y": io["x"]},
        {
            "scale": np.array(0.05, np.float32),
            "zero": np.array(0, np.int8),
            "share": np.array(share, np.float32),
            "samples": np.array([0], np.int64),
        },
    )


@pytest.mark.parametrize(
    ("rounding", "source", "share", "batched"),
    [
        (FIXED, "rounded", 0.01, True),
        (FIXED, "rounded", 0.5, False),
        ([], "x", 0.01, False),
        ([*FIXED, *BY_BATCH], "rounded", 0.01, False),
    ],
    ids=["by a step", "by more than steps", "without 8 bits", "scales of the batch"],
)
def test_a_file_in_8_bits_may_differ_by_steps(
    tmp_path: Path, rounding: list[onnx.NodeProto], source: str, share: float, batched: bool
) -> None:
    onnx.save(shifted_by_the_batch(rounding, source, share), tmp_path / "model.onnx")
    assert probe(tmp_path / "model.onnx")["batching"]["batched"] is batched
