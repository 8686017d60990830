"""Which empty tensors a model accepts, and which requests are computed alone, or one by one after a batch has failed.

Other refusals and batching are tested in tests/serving/server/transport."""

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.serving.server.errors import InvalidValuesError
from tests.kit import onnx_models
from tests.kit.gate import Array, Script, echo
from tests.kit.kinds import message_of
from tests.kit.repository import Repository

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_an_empty_tensor_claims_no_size_that_no_message_has_and_axes_of_one_name_are_empty_together(
    repository: Repository,
) -> None:
    """Without this check, a request of twenty bytes could get a huge answer, for example sums over an empty axis."""
    rows = "(float[n, m] x) => (float[n, 1] y) <int64[1] axes = {1}> { y = ReduceSum(x, axes) }"
    repository.publish("rows", model=onnx_models.from_text(rows))
    pairs = "(float[n, 3] a, float[n, 3] b) => (float[n, 3] y) { y = Add(a, b) }"
    repository.publish("pairs", model=onnx_models.from_text(pairs))
    infer = repository.start().client.infer
    message = message_of(INVALID, infer, "rows", {"x": np.zeros((0, 10**10), np.float32)})
    assert "with each size 0 replaced by 1, it would have 40,000,000,000 bytes" in message
    none, some = np.zeros((0, 3), np.float32), np.zeros((2, 3), np.float32)
    assert len(infer("pairs", {"a": none, "b": none})["y"]) == 0
    for a, b in ((none, some), (some, none)):
        message = message_of(INVALID, infer, "pairs", {"a": a, "b": b})
        assert "all axes called 'n' must have size 0" in message


BATCHES = 16
"""When consecutive batches each run alone, those from this number on (the first is 1) may use every thread."""


def test_only_batches_that_come_alone_again_and_again_may_use_every_thread(repository: Repository) -> None:
    running = repository.start(instances=1, max_batch_size=1)
    running.gates.play(one=echo)
    for _ in range(BATCHES + 1):
        running.infer("one", [1])
    assert running.gates.alone["one"] == [False] * (BATCHES - 1) + [True, True]
    with running.occupied("one", queued=2):
        assert running.gates.alone["one"][-1]
    # The second queued call waited while the first was computed, so the count of batches that ran alone was reset.
    assert running.gates.alone["one"][-2:] == [False, False]


@pytest.mark.parametrize("busy", ["one", "two"])
def test_with_another_batch_being_computed_no_batch_is_alone(repository: Repository, busy: str) -> None:
    running = repository.start(instances=2)
    running.gates.play(one=echo)
    for _ in range(BATCHES):
        running.infer("one", [1])
    with running.occupied(busy):
        running.infer("one", [1])
    running.infer("one", [1])
    assert running.gates.alone["one"][-3:] == [True, False, False]


def failing(error: Exception, *, of: float = 0) -> Script:
    """Make a script that raises the error for batches with the value ``of``, or of 3 or more samples if ``of`` is 0."""

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
        (lambda x: x[1:] if len(x) > 2 else x, [], 1),  # the model returns too few rows
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
