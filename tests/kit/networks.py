"""Samples, and two small networks for conversion, one of which has a layer that loses accuracy in 8 bits."""

import numpy as np
import numpy.typing as npt
import onnx

from tests.kit.onnx_models import from_text

FEATURES, LABELS = 16, 5
Array = npt.NDArray[np.float32]


def weights(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def sensitive() -> onnx.ModelProto:
    """Three matrix products. The layer `fragile` gives wrong results in 8 bits.

    Half of the inputs of `fragile` are 10,000 times larger than the others, and have the weight 0.
    """
    scale = np.ones(FEATURES, np.float32)
    scale[FEATURES // 2 :] = 1e4
    return scoring(
        """{
            [first] a = MatMul(x, first)
            [scaling] b = Mul(a, scale)
            [fragile] c = MatMul(b, small)
            [last] scores = MatMul(c, last)
        }""",
        first=weights(1, FEATURES, FEATURES),
        scale=scale,
        small=np.diag((scale == 1).astype(np.float32)),
    )


def robust() -> onnx.ModelProto:
    """A model of one matrix product, which gives nearly the same results in 8 bits."""
    return scoring("{ [last] scores = MatMul(x, last) }")


def scoring(text: str, **constants: Array) -> onnx.ModelProto:
    """A model with x FP32 [batch, 16] -> scores FP32 [batch, 5], built from this text and the weights ``last``."""
    signature = f"(float[batch, {FEATURES}] x) => (float[batch, {LABELS}] scores)"
    return from_text(f"{signature} {text}", None, **({"last": weights(2, FEATURES, LABELS)} | constants))


def samples(count: int = 200, seed: int = 0) -> Array:
    """Samples x [count, 16]."""
    return weights(100 + seed, count, FEATURES)
