"""A request of a stream or of a comparison: of whichever model serves by then, and counted when it fails."""

from collections.abc import Callable

import pytest

from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import (
    CancelledError,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.submission import Asked, asking, response_of
from tests.serving.server.parts import Caller, FakeRuntime, engine_of, served

ANSWER = InferenceResult({}, Timings(0, 0, 0, 0, 1))


@pytest.fixture
def engine() -> Engine:
    return engine_of(served(FakeRuntime()))


def failed(engine: Engine) -> dict[tuple[str, str, str], int]:
    """How many requests, by model, version and code."""
    return {key: histogram.count for key, histogram in engine.failures.snapshot().items()}


def fixed(read: Callable[[InferenceResult], str] = lambda _answer: "read") -> Asked[str]:
    return Asked(lambda: None, read)


def test_a_model_that_was_replaced_in_between_is_asked_in_its_successor(engine: Engine) -> None:
    asked: list[ServedModel] = []

    def ask(model: ServedModel, _on_complete: OnComplete, deadline: float | None) -> Asked[str]:
        assert deadline == 7.0
        asked.append(model)
        if len(asked) == 1:
            engine.serve("double", [served(FakeRuntime())])
            raise UnavailableError("closed")
        return fixed()

    assert response_of(asking(engine, "double", "", ask)(Caller(), 7.0), ANSWER) == "read"
    assert asked[0] is not asked[1]
    assert failed(engine) == {}


def test_a_refusal_is_counted(engine: Engine) -> None:
    def ask(_model: ServedModel, _on_complete: OnComplete, _deadline: float | None) -> Asked[str]:
        raise InvalidRequestError("wrong")

    with pytest.raises(InvalidRequestError):
        asking(engine, "double", "", ask)(Caller(), None)
    with pytest.raises(NotFoundError):
        asking(engine, "made up", "", ask)(Caller(), None)
    version = engine.model("double").version
    assert failed(engine) == {("double", version, "INVALID_ARGUMENT"): 1, ("", "", "NOT_FOUND"): 1}


def test_what_fails_later_is_counted_once_and_passed_on(engine: Engine) -> None:
    pending: list[OnComplete] = []

    def ask(_model: ServedModel, on_complete: OnComplete, _deadline: float | None) -> Asked[str]:
        pending.append(on_complete)
        return fixed()

    caller, error = Caller(), CancelledError("gone")
    version = engine.model("double").version
    asked = asking(engine, "double", version, ask)(caller, None)
    pending[0](error)
    assert caller.outcome is error
    assert response_of(asked, error) is error
    assert failed(engine) == {("double", version, "CANCELLED"): 1}


def test_an_answer_that_cannot_be_read_is_counted(engine: Engine) -> None:
    def unreadable(_answer: InferenceResult) -> str:
        raise InferenceError("makes no sense")

    def ask(_model: ServedModel, on_complete: OnComplete, _deadline: float | None) -> Asked[str]:
        on_complete(ANSWER)
        return fixed(unreadable)

    caller = Caller()
    asked = asking(engine, "double", "", ask)(caller, None)
    assert caller.outcome is ANSWER
    response = response_of(asked, ANSWER)
    assert isinstance(response, InferenceError)
    assert failed(engine) == {("double", engine.model("double").version, "INTERNAL"): 1}
