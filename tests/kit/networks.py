"""Small networks to convert, one of whose layers is sensitive to 8 bits, and samples for them."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from tests.kit.onnx_models import model

FEATURES, LABELS = 16, 5
Array = npt.NDArray[np.float32]


def weights(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def sensitive() -> onnx.ModelProto:
    """x FP32 [batch, 16] -> scores FP32 [batch, 5] by three matrix products, of which 8 bits destroy `fragile`.

    Its inputs differ by a factor of 10,000 in size, and the small ones alone are passed on.
    """
    scale = np.ones(FEATURES, np.float32)
    scale[FEATURES // 2 :] = 1e4
    only_small = np.diag((scale == 1).astype(np.float32))
    return model(
        [
            helper.make_node("MatMul", ["x", "first"], ["a"], name="first"),
            helper.make_node("Mul", ["a", "scale"], ["b"], name="scaling"),
            helper.make_node("MatMul", ["b", "small"], ["c"], name="fragile"),
            helper.make_node("MatMul", ["c", "last"], ["scores"], name="last"),
        ],
        {"x": (TensorProto.FLOAT, ["batch", FEATURES])},
        {"scores": (TensorProto.FLOAT, ["batch", LABELS])},
        {
            "first": weights(1, FEATURES, FEATURES),
            "scale": scale,
            "small": only_small,
            "last": weights(2, FEATURES, LABELS),
        },
    )


def robust() -> onnx.ModelProto:
    """x FP32 [batch, 16] -> scores FP32 [batch, 5] by one matrix product, in which 8 bits change little."""
    return model(
        [helper.make_node("MatMul", ["x", "last"], ["scores"], name="last")],
        {"x": (TensorProto.FLOAT, ["batch", FEATURES])},
        {"scores": (TensorProto.FLOAT, ["batch", LABELS])},
        {"last": weights(2, FEATURES, LABELS)},
    )


def overflowing() -> onnx.ModelProto:
    """x FP32 [batch, 16] -> scores FP32 [batch, 5]; a sum of squares in between exceeds what 16 bits hold."""
    return model(
        [
            helper.make_node("Mul", ["x", "large"], ["a"], name="larger"),
            helper.make_node("Mul", ["a", "a"], ["b"], name="squares"),
            helper.make_node("Mul", ["b", "tiny"], ["c"], name="smaller"),
            helper.make_node("MatMul", ["c", "last"], ["scores"], name="last"),
        ],
        {"x": (TensorProto.FLOAT, ["batch", FEATURES])},
        {"scores": (TensorProto.FLOAT, ["batch", LABELS])},
        {
            "large": np.array(1000, np.float32),
            "tiny": np.array(1e-6, np.float32),
            "last": weights(2, FEATURES, LABELS),
        },
    )


def colours(layout: str, datatype: int = TensorProto.FLOAT, size: int | str = 8) -> onnx.ModelProto:
    """image [batch, 3, 8, 8] (NCHW), [batch, 8, 8, 3] (NHWC) or [batch, 8, 8] (NHW) -> the same, as FP32."""
    axes: dict[str, list[int | str]] = {
        "NCHW": ["batch", 3, size, size], "NHWC": ["batch", size, size, 3], "NHW": ["batch", size, size],
    }  # fmt: skip
    return model(
        [helper.make_node("Cast", ["image"], ["same"], to=TensorProto.FLOAT)],
        {"image": (datatype, axes[layout])},
        {"same": (TensorProto.FLOAT, axes[layout])},
    )


def samples(count: int = 200, seed: int = 0) -> Array:
    """x [count, 16]."""
    return weights(100 + seed, count, FEATURES)
