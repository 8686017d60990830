"""A submitted query goes to the model that serves its name at that moment, and each failure is counted once."""

from collections.abc import Callable
from functools import partial

import pytest

from hangtag.serving.server.batching.request import InferenceResult, OnComplete, QueuedRequest, Tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Cancel, Servable
from hangtag.serving.server.errors import (
    CancelledError,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.call import Call, failures_recorded
from hangtag.serving.server.transport.submission import Answered, Outcome, PreparedQuery, submit
from tests.serving.server.parts import FakeRuntime, engine_of, served

RESULT = InferenceResult({}, Timings(0, 0, 0, 0, 1))


class TextQuery:
    """A query whose response is a text. It remembers the models that it was prepared for."""

    def __init__(self, name: str = "double", version: str = "", encode: Callable[[InferenceResult], str] | None = None):
        self.call = Call("/test.Service/Method")
        self.model_name = name
        self.model_version = version
        self.models: list[Servable] = []
        self.deadlines: list[float | None] = []
        self.error: ServerError | None = None
        self._encode = encode or (lambda _result: "response")

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[str]:
        self.models.append(model)
        self.deadlines.append(deadline)
        if self.error is not None:
            raise self.error
        return PreparedQuery({}, {}, deadline, self._encode)


class Queue:
    """Takes the place of a model's queue: a test completes its requests."""

    def __init__(self, model: Servable, monkeypatch: pytest.MonkeyPatch) -> None:
        self.callbacks: list[OnComplete] = []
        self.cancelled: list[OnComplete] = []
        self.deadlines: list[float | None] = []
        monkeypatch.setattr(model, "submit", self._submit)

    def _submit(
        self, inputs: Tensors, _datatypes: object, on_complete: OnComplete, deadline: float | None, **_options: object
    ) -> Cancel:
        self.callbacks.append(on_complete)
        self.deadlines.append(deadline)
        return partial(self.cancelled.append, on_complete)


@pytest.fixture
def engine() -> Engine:
    return engine_of(served(FakeRuntime()))


@pytest.fixture
def queue(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(engine.model("double"), monkeypatch)


def failed(engine: Engine) -> dict[tuple[str, str, str], int]:
    """How many requests, by model, version and code."""
    return {key: histogram.count for key, histogram in engine.failures.snapshot().items()}


def test_an_answer_is_encoded_when_its_response_is_read(engine: Engine, queue: Queue) -> None:
    encoded: list[InferenceResult] = []

    def encode(result: InferenceResult) -> str:
        encoded.append(result)
        return "response"

    outcomes: list[Outcome[str]] = []
    cancel = submit(engine, TextQuery(encode=encode), outcomes.append, 7.0)
    assert (outcomes, queue.deadlines) == ([], [7.0])
    queue.callbacks[0](RESULT)
    (outcome,) = outcomes
    assert (encoded, outcome.timings) == ([], RESULT.timings)
    assert outcome.response() == "response"
    assert encoded == [RESULT]
    cancel()
    assert len(queue.cancelled) == 1
    assert failed(engine) == {}


def test_a_full_queue_refuses_a_query_before_it_is_decoded() -> None:
    model = served(FakeRuntime(), ServerConfig(max_batch_size=1, max_queue_size=1))  # not started: what is queued stays
    engine = engine_of(model)
    model.batcher.put(QueuedRequest({}, 1, lambda _: None))
    query, outcomes = TextQuery(), list[Outcome[str]]()
    submit(engine, query, outcomes.append, None)
    with pytest.raises(QueueFullError, match="1 requests are waiting"):
        outcomes[0].response()
    assert query.models == []
    assert failed(engine) == {("double", model.version, "RESOURCE_EXHAUSTED"): 1}


def test_a_model_that_was_replaced_in_between_is_looked_up_again(
    engine: Engine, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = served(FakeRuntime())
    successors_queue = Queue(successor, monkeypatch)

    def submit_to_closed(*_: object, **__: object) -> None:
        engine.serve("double", [successor])
        raise UnavailableError("closed")

    monkeypatch.setattr(engine.model("double"), "submit", submit_to_closed)
    query, outcomes = TextQuery(), list[Outcome[str]]()
    submit(engine, query, outcomes.append, 7.0)
    successors_queue.callbacks[0](RESULT)
    assert [type(outcome) for outcome in outcomes] == [Answered]
    assert query.models[1] is successor
    assert query.models[0] is not successor
    assert query.deadlines == [7.0, 7.0]
    assert failed(engine) == {}


def test_a_model_that_was_unloaded_in_between_is_not_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit_to_closed(*_: object, **__: object) -> None:
        engine.serve("double", [])
        raise UnavailableError("closed")

    monkeypatch.setattr(engine.model("double"), "submit", submit_to_closed)
    outcomes: list[Outcome[str]] = []
    submit(engine, TextQuery(), outcomes.append, None)
    with pytest.raises(NotFoundError):
        outcomes[0].response()


def test_a_model_that_is_unavailable_and_was_not_replaced_stays_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit_to_closed(*_: object, **__: object) -> None:
        raise UnavailableError("for another reason")

    monkeypatch.setattr(engine.model("double"), "submit", submit_to_closed)
    outcomes: list[Outcome[str]] = []
    submit(engine, TextQuery(), outcomes.append, None)
    with pytest.raises(UnavailableError, match="for another reason"):
        outcomes[0].response()


def test_a_refusal_is_an_outcome_and_is_counted(engine: Engine) -> None:
    outcomes: list[Outcome[str]] = []
    invalid = TextQuery()
    invalid.error = InvalidRequestError("wrong")
    submit(engine, invalid, outcomes.append, None)()
    submit(engine, TextQuery("made up"), outcomes.append, None)()
    for outcome, error in zip(outcomes, (InvalidRequestError, NotFoundError), strict=True):
        assert outcome.timings is None
        with pytest.raises(error):
            outcome.response()
    version = engine.model("double").version
    assert failed(engine) == {("double", version, "INVALID_ARGUMENT"): 1, ("", "", "NOT_FOUND"): 1}


def test_a_query_that_fails_later_is_counted_once(engine: Engine, queue: Queue) -> None:
    outcomes: list[Outcome[str]] = []
    version = engine.model("double").version
    submit(engine, TextQuery(version=version), outcomes.append, None)
    queue.callbacks[0](CancelledError("gone"))
    (outcome,) = outcomes
    with pytest.raises(CancelledError, match="gone"):
        outcome.response()
    assert failed(engine) == {("double", version, "CANCELLED"): 1}


def test_a_result_that_cannot_be_encoded_is_counted(engine: Engine, queue: Queue) -> None:
    def encode(_result: InferenceResult) -> str:
        raise InferenceError("has no meaning")

    outcomes: list[Outcome[str]] = []
    submit(engine, TextQuery(encode=encode), outcomes.append, None)
    queue.callbacks[0](RESULT)
    with pytest.raises(InferenceError, match="has no meaning"):
        outcomes[0].response()
    assert failed(engine) == {("double", engine.model("double").version, "INTERNAL"): 1}


def test_an_error_before_there_is_a_query_is_counted_without_a_model(engine: Engine) -> None:
    call = Call("/test.Service/Method")
    with pytest.raises(InvalidRequestError), failures_recorded(engine, call):
        raise InvalidRequestError("not a message")
    with failures_recorded(engine, call):
        pass
    assert failed(engine) == {("", "", "INVALID_ARGUMENT"): 1}
