from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.runtime import verification
from hangtag.serving.server.runtime.io_binding import BoundSession
from hangtag.serving.server.runtime.verification import Proof, seconds
from hangtag.serving.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("y", "FP32", (None, 2)),))


class Computes(BoundSession):
    """A session that computes y as it is told to."""

    def __init__(self, compute: Any) -> None:
        super().__init__((1, 2, 4), lambda size: None, slots=0)  # type: ignore[arg-type, return-value]
        self._compute = compute

    def run(self, inputs: Any) -> Any:
        return {"y": self._compute(inputs["x"])}


def problem(compute: Any, ordinary: Any = lambda x: 2 * x) -> str:
    proof = Proof(SIGNATURE, {"x": np.dtype("float32")}, lambda inputs: {"y": ordinary(inputs["x"])})
    session, why = proof.tried(lambda: Computes(compute))
    assert (session is None) is bool(why)
    return why


def test_the_same_but_for_rounding_is_the_same() -> None:
    assert problem(lambda x: 2 * x) == ""
    assert problem(lambda x: 2 * x + 1e-4) == ""
    assert problem(lambda x: x + np.nan, lambda x: x + np.nan) == ""


def test_a_graph_that_reads_what_was_there_when_it_was_captured_is_found() -> None:
    captured: dict[int, Any] = {}

    def replayed(x: Any) -> Any:
        return 2 * captured.setdefault(len(x), x)

    assert problem(replayed) == "output 'y' is not the session's own with 1 samples"


@pytest.mark.parametrize(
    "wrong",
    [lambda x: 2 * x[::-1] if len(x) > 1 else 2 * x, lambda x: 2 * x[:1], lambda x: x + np.nan, lambda x: 2.1 * x],
    ids=["other rows", "too few", "nan", "values"],
)
def test_other_answers_are_found(wrong: Any) -> None:
    assert "is not the session's own" in problem(wrong)


def test_whole_numbers_must_be_the_same() -> None:
    def rounded(x: Any) -> Any:
        return (100 * x).astype(np.int64)

    assert problem(rounded, rounded) == ""
    assert (
        problem(lambda x: rounded(x) + (len(x) == 4), rounded) == "output 'y' is not the session's own with 4 samples"
    )


def test_whatever_is_raised_is_a_reason() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("no such kernel")

    assert problem(fails) == "no such kernel"


def test_the_shortest_run_of_each_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(np.cumsum([0, 5, 0, 1, *[0, 9] * 5, 0, 2, *[0, 7] * 6]).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert seconds(lambda inputs: {}, [{}, {}]) == 1 + 2


@pytest.mark.parametrize(("share", "gains"), [(1.5, True), (0.1, False)])
def test_a_gain_is_a_share_of_the_others_time(monkeypatch: pytest.MonkeyPatch, share: float, gains: bool) -> None:
    monkeypatch.setattr(verification, "seconds", lambda compute, batches: float(len(batches)))
    proof = Proof(SIGNATURE, {"x": np.dtype("float32")}, lambda inputs: inputs)
    session = Computes(lambda x: x)
    assert proof.gains(session, session, share) is gains
