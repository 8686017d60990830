"""Which inputs a model takes, and which requests share a batch, are computed alone, or one by one after a failure.

What a refusal says of the other mistakes is in tests/serving/server/transport.
"""

from typing import Any

import numpy as np
import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.server.engine.validation import batch_key, count_samples
from hangtag.serving.server.errors import InvalidRequestError, InvalidValuesError
from hangtag.serving.signature import Signature, TensorSpec
from tests.kit.gate import Array, Script, echo
from tests.kit.repository import Repository

PICTURES = Signature((TensorSpec("image", "UINT8", (None, 4, 4)),), (TensorSpec("y", "FP32", (None, 2)),))
PAIRS = Signature(
    (TensorSpec("a", "FP32", (None, None)), TensorSpec("b", "INT64", (None, 3))), (TensorSpec("y", "FP32", (None,)),)
)
ROWS = Signature((TensorSpec("x", "FP32", (None, None), ("n", "m")),), (TensorSpec("y", "FP32", (None,), ("n",)),))
STATE = Signature(
    (TensorSpec("x", "FP32", (None, 8)), TensorSpec("state", "FP32", (2, None, 8))),
    (TensorSpec("y", "FP32", (None, 8)),),
)


def count(signature: Signature, limit: int = 8, no_empty_because: str = "", **inputs: Any) -> int:
    """Inputs are given as dtype and shape."""
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
    names = {np.float32: "FP32", np.int64: "INT64", np.uint8: "UINT8"}
    datatypes = {name: names[dtype] for name, (dtype, _) in inputs.items()}
    return count_samples(signature, arrays, datatypes, limit, no_empty_because=no_empty_because)


def test_a_free_axis_may_be_empty_where_the_model_allows_it_but_no_batch() -> None:
    assert count(PAIRS, a=(np.float32, (2, 0)), b=(np.int64, (2, 3))) == 2
    assert count(STATE, x=(np.float32, (0, 8)), state=(np.float32, (2, 0, 8))) == 1
    with pytest.raises(InvalidRequestError, match=r"\[2, 0\]; every size must be at least 1: it has LSTM"):
        count(PAIRS, no_empty_because="it has LSTM", a=(np.float32, (2, 0)), b=(np.int64, (2, 3)))
    for a, b in (((0, 0), (0, 3)), ((0, 2), (1, 3)), ((1, 2), (0, 3))):
        with pytest.raises(InvalidRequestError, match="the first axis is the batch, and a request has at least 1"):
            count(PAIRS, a=(np.float32, a), b=(np.int64, b))


def test_an_empty_tensor_cannot_claim_sizes_that_no_message_has() -> None:
    """Twenty bytes could otherwise ask for an answer of any size, such as the sum over the empty axis."""
    with pytest.raises(InvalidRequestError, match="with 1 in place of 0 it would have 40,000,000,000 bytes"):
        count(ROWS, x=(np.float32, (0, 10**10)))


def test_axes_of_one_name_are_empty_together() -> None:
    axes = ("n", None)
    same = Signature(
        (TensorSpec("a", "FP32", (None, 3), axes), TensorSpec("b", "FP32", (None, 3), axes)),
        (TensorSpec("y", "FP32", (None, 3), axes),),
    )
    assert not same.batched
    assert count(same, a=(np.float32, (0, 3)), b=(np.float32, (0, 3))) == 1
    for sizes in ((0, 2), (2, 0)):
        with pytest.raises(InvalidRequestError, match="where one axis called 'n' has size 0, each must have it"):
            count(same, a=(np.float32, (sizes[0], 3)), b=(np.float32, (sizes[1], 3)))


_free_or_fixed = st.none() | st.integers(1, 3)


@given(spec=st.lists(_free_or_fixed, max_size=4), shape=st.lists(st.integers(0, 3), max_size=4))
def test_exactly_the_sizes_that_the_signature_allows_are_admitted(spec: list[int | None], shape: list[int]) -> None:
    signature = Signature((TensorSpec("x", "FP32", tuple(spec)),), (TensorSpec("y", "FP32", (None,)),))
    fits = len(spec) == len(shape) and all(want in (None, size) for want, size in zip(spec, shape, strict=True))
    if fits and not (signature.batched and shape[0] == 0):
        assert count(signature, x=(np.float32, shape)) == (shape[0] if signature.batched else 1)
    else:
        with pytest.raises(InvalidRequestError):
            count(signature, x=(np.float32, shape))


@given(first=st.lists(st.integers(0, 2), min_size=2, max_size=2), second=st.lists(st.integers(0, 2), min_size=2))
def test_only_requests_that_can_be_concatenated_share_a_batch(first: list[int], second: list[int]) -> None:
    signature = Signature((TensorSpec("x", "FP32", (None, None, None)),), (TensorSpec("y", "FP32", (None,)),))
    keys = [batch_key(signature, {"x": np.zeros((batch, *sizes[:2]))}) for batch, sizes in ((1, first), (2, second))]
    assert (keys[0] == keys[1]) == (first == second[:2])
    fixed = [batch_key(PICTURES, {"image": np.zeros((batch, 4, 4))}) for batch in (1, 2)]
    assert fixed[0] == fixed[1]


BATCHES = 16
"""After so many in a row that come alone, a batch may be computed by every thread."""


def test_only_batches_that_come_alone_again_and_again_may_use_every_thread(repository: Repository) -> None:
    running = repository.start(instances=1, max_batch_size=1)
    running.gates.play(one=echo)
    for _ in range(BATCHES + 1):
        running.infer("one", [1])
    assert running.gates.alone["one"] == [False] * (BATCHES - 1) + [True, True]
    with running.occupied("one", queued=2):
        assert running.gates.alone["one"][-1]
    # One that another waits for, and one that comes alone, but only a moment after that.
    assert running.gates.alone["one"][-2:] == [False, False]


def test_with_another_batch_being_computed_no_batch_is_alone(repository: Repository) -> None:
    running = repository.start(instances=2)
    running.gates.play(one=echo)
    for _ in range(BATCHES):
        running.infer("one", [1])
    with running.occupied("one"):
        running.infer("one", [1])
    running.infer("one", [1])
    assert running.gates.alone["one"][-4:] == [True, True, False, False]


def failing(error: Exception, *, of: float = 0) -> Script:
    """A script that raises for each batch with this sample, or for each of several samples where there is none."""

    def compute(x: Array) -> Array:
        if of in x if of else len(x) > 2:
            raise error
        return x

    return compute


@pytest.mark.parametrize(
    ("script", "failed", "logged"),
    [
        (failing(InvalidValuesError("made up")), [], 1),
        (failing(InvalidValuesError("made up"), of=2), [1], 0),
        (failing(KeyError("a bug"), of=2), [1], 1),
        (lambda x: x[1:] if len(x) > 2 else x, [], 1),  # too few rows
        (echo, [], 0),
    ],
    ids=["together", "a client's values", "a bug", "too few rows", "no failure"],
)
def test_a_batch_that_fails_is_computed_one_by_one_and_logged_where_no_client_is_at_fault(
    repository: Repository, script: Script, failed: list[int], logged: int
) -> None:
    requests: list[list[float]] = [[1], [2, 4], [3]]
    running = repository.start(instances=1)
    with structlog.testing.capture_logs() as log:
        with running.occupied("one"):
            calls = [running.infer_waiting("one", each, "one", place) for place, each in enumerate(requests, start=1)]
            running.gates.play(one=script)
        answers = [None if call.exception() else call.result()["y"][:, 0].tolist() for call in calls]
    assert answers == [None if place in failed else each for place, each in enumerate(requests)]
    assert running.gates.batches["one"] == [[9], [1, 2, 4, 3], *([] if script is echo else requests)]
    lines = [(line["model"], line["requests"]) for line in log if line["event"] == "batch failed"]
    assert lines == [("one", 3)] * logged
