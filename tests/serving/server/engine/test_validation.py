from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.engine.validation import batch_key, count_samples
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.signature import Signature, TensorSpec

PICTURES = Signature((TensorSpec("image", "UINT8", (None, 4, 4)),), (TensorSpec("y", "FP32", (None, 2)),))
PAIRS = Signature(
    (TensorSpec("a", "FP32", (None, None)), TensorSpec("b", "INT64", (None, 3))), (TensorSpec("y", "FP32", (None,)),)
)
FIXED = Signature((TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", (4,)),))
SCALAR = Signature((TensorSpec("x", "FP32", ()),), (TensorSpec("y", "FP32", (None,)),))
STATE = Signature(
    (TensorSpec("x", "FP32", (None, 8)), TensorSpec("state", "FP32", (2, None, 8))),
    (TensorSpec("y", "FP32", (None, 8)),),
)


def count(signature: Signature, limit: int = 8, **inputs: Any) -> int:
    """Inputs are given as dtype and shape."""
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
    names = {np.float32: "FP32", np.int64: "INT64", np.uint8: "UINT8"}
    return count_samples(signature, arrays, {name: names[dtype] for name, (dtype, _) in inputs.items()}, limit)


def test_samples_are_the_common_first_size() -> None:
    assert count(PICTURES, image=(np.uint8, (1, 4, 4))) == 1
    assert count(PICTURES, image=(np.uint8, (8, 4, 4))) == 8
    assert count(PAIRS, a=(np.float32, (3, 9)), b=(np.int64, (3, 3))) == 3


def test_a_model_without_a_batch_axis_takes_one_sample() -> None:
    assert not FIXED.batched
    assert not SCALAR.batched
    assert not STATE.batched
    assert count(FIXED, x=(np.float32, (4,))) == 1
    assert count(SCALAR, x=(np.float32, ())) == 1
    assert count(STATE, x=(np.float32, (5, 8)), state=(np.float32, (2, 5, 8))) == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'image' is missing; the model takes image: UINT8 \[any, 4, 4\]"),
        ({"picture": (np.uint8, (1, 4, 4))}, r"unknown input 'picture'; the model takes image: UINT8 \[any, 4, 4\]"),
        ({"image": (np.uint8, (1, 4, 4)), "b": (np.uint8, (1,))}, "unknown input 'b'"),
        ({"image": (np.float32, (1, 4, 4))}, "input 'image' is FP32; the model takes image: UINT8"),
        ({"image": (np.uint8, (4, 4))}, r"input 'image' has shape \[4, 4\]; the model takes"),
        ({"image": (np.uint8, (1, 1, 4, 4))}, r"has shape \[1, 1, 4, 4\]"),
        ({"image": (np.uint8, (1, 4, 5))}, r"has shape \[1, 4, 5\]"),
        ({"image": (np.uint8, (1, 4, 0))}, r"has shape \[1, 4, 0\]"),
        ({"image": (np.uint8, ())}, r"has shape \[\]"),
        ({"image": (np.uint8, (0, 4, 4))}, r"has shape \[0, 4, 4\]; every size must be at least 1"),
        ({"image": (np.uint8, (9, 4, 4))}, "9 samples in one request; the model takes at most 8"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_what_would_fit(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        count(PICTURES, **inputs)


def test_batch_sizes_must_agree() -> None:
    with pytest.raises(InvalidRequestError, match="the inputs' batch sizes differ: a 2, b 3"):
        count(PAIRS, a=(np.float32, (2, 9)), b=(np.int64, (3, 3)))


@pytest.mark.parametrize("shape", [(1, 0), (0, 0)])
def test_no_free_axis_may_be_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="every size must be at least 1"):
        count(PAIRS, a=(np.float32, shape), b=(np.int64, (1, 3)))


def test_the_kind_is_the_sizes_of_the_other_free_axes() -> None:
    def kind(batch: int, length: int) -> object:
        return batch_key(PAIRS, {"a": np.zeros((batch, length)), "b": np.zeros((batch, 3))})

    assert kind(1, 5) == kind(2, 5)
    assert kind(1, 5) != kind(1, 6)
    assert batch_key(PICTURES, {"image": np.zeros((1, 4, 4))}) == batch_key(PICTURES, {"image": np.zeros((2, 4, 4))})
