from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.runtime import verification
from hangtag.serving.server.runtime.io_binding import BufferPool
from hangtag.serving.server.runtime.verification import Verification, seconds
from hangtag.serving.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("y", "FP32", (None, 2)),))


class Computes(BufferPool):
    """A pool that computes y by a function of the test."""

    def __init__(self, compute: Any) -> None:
        super().__init__((1, 2, 4), lambda size: None, instances=0)  # type: ignore[arg-type, return-value]
        self._compute = compute

    def run(self, inputs: Any) -> Any:
        return {"y": self._compute(inputs["x"])}


def problem(compute: Any, reference: Any = lambda x: 2 * x) -> str:
    verification = Verification(SIGNATURE, lambda inputs: {"y": reference(inputs["x"])})
    pool, reason = verification.verified(lambda: Computes(compute))
    assert (pool is None) is bool(reason)
    return reason


def test_rounding_is_not_a_difference() -> None:
    assert problem(lambda x: 2 * x) == ""
    assert problem(lambda x: 2 * x + 1e-4) == ""
    assert problem(lambda x: x + np.nan, lambda x: x + np.nan) == ""


def test_a_graph_that_reads_the_inputs_of_its_capture_is_refused() -> None:
    captured: dict[int, Any] = {}

    def replayed(x: Any) -> Any:
        return 2 * captured.setdefault(len(x), x)

    assert problem(replayed) == "output 'y' differs from the session's with 1 samples"


@pytest.mark.parametrize(
    "wrong",
    [lambda x: 2 * x[::-1] if len(x) > 1 else 2 * x, lambda x: 2 * x[:1], lambda x: x + np.nan, lambda x: 2.1 * x],
    ids=["other rows", "too few", "nan", "values"],
)
def test_wrong_answers_are_refused(wrong: Any) -> None:
    assert "differs from the session's" in problem(wrong)


def test_whole_numbers_must_be_equal() -> None:
    def rounded(x: Any) -> Any:
        return (100 * x).astype(np.int64)

    assert problem(rounded, rounded) == ""
    assert (
        problem(lambda x: rounded(x) + (len(x) == 4), rounded) == "output 'y' differs from the session's with 4 samples"
    )


def test_every_exception_is_a_reason() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("no such kernel")

    assert problem(fails) == "no such kernel"


def test_the_shortest_run_of_each_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = [0, 3, 0, 1, *[0, 4] * 5, 0, 2, *[0, 4] * 6]
    ticks = iter((np.cumsum(milliseconds) / 1e3).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert seconds(lambda inputs: {}, [{}, {}]) == pytest.approx(0.001 + 0.002)


def test_a_slow_model_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 5.0, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert seconds(lambda inputs: {}, [{}]) == 4


@pytest.mark.parametrize(("share", "faster"), [(1.5, True), (0.1, False)])
def test_faster_means_less_than_a_share_of_the_others_time(
    monkeypatch: pytest.MonkeyPatch, share: float, faster: bool
) -> None:
    monkeypatch.setattr(verification, "seconds", lambda compute, batches: float(len(batches)))
    pool = Computes(lambda x: x)
    assert Verification(SIGNATURE, lambda inputs: inputs).is_faster(pool, pool, share) is faster
