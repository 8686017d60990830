"""Submit a query to the model that serves its name: the one way of a request from a transport into the engine.

A transport wraps its message in a `Query` and passes it to `submit`, which looks the model up, lets the query decode
itself for that model, and puts the inputs into the model's queue. The transport's `Reply` gets the `Outcome`. Retries
after a model swap and the counting of failures are here, so that unary calls, streams and comparisons differ in their
reply alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar

from hangtag.serving.server.batching.request import InferenceResult, Tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ServerError, UnavailableError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.status import status_code

T = TypeVar("T")
Response = TypeVar("Response")


@dataclass(frozen=True)
class PreparedQuery(Generic[Response]):
    """A query that is decoded for one version of its model."""

    inputs: Tensors
    datatypes: Mapping[str, str]
    deadline: float | None
    """On the monotonic clock, in seconds."""
    encode: Callable[[InferenceResult], Response]
    """Turns the model's result into the transport's response; may raise ServerError."""


class Query(Protocol[Response]):
    """A transport's request for one model, not decoded yet."""

    @property
    def model_name(self) -> str: ...

    @property
    def model_version(self) -> str:
        """Empty: the latest version."""

    def prepare(self, model: ServedModel, deadline: float | None) -> PreparedQuery[Response]:
        """Decode the request for this model.

        Args:
            model: The version that will compute the query.
            deadline: The call's deadline; the request may set an earlier one.

        Raises:
            InvalidRequestError: The request does not fit the model.
        """


@dataclass(frozen=True)
class Answered(Generic[Response]):
    """The outcome of a query that the model answered.

    The result is encoded only when `response` is called, so that the thread that sends it spends the time, and not the
    thread that computes batches.
    """

    result: InferenceResult
    encode: Callable[[InferenceResult], Response]

    @property
    def timings(self) -> Timings | None:
        return self.result.timings

    def response(self) -> Response:
        """Encode the result. Raises ServerError if it has no meaning."""
        return self.encode(self.result)


@dataclass(frozen=True)
class Failed:
    """The outcome of a query that was refused, dropped, or failed."""

    error: Exception

    @property
    def timings(self) -> Timings | None:
        return None

    def response(self) -> NoReturn:
        """Raises the error."""
        raise self.error


Outcome: TypeAlias = Answered[Response] | Failed
Reply: TypeAlias = Callable[[Outcome[Response]], None]
"""Takes the outcome of a query, exactly once: on the thread that computed or dropped it, or, for a query that is
refused, on the submitting thread before `submit` returns. It must not block."""
Cancel: TypeAlias = Callable[[], None]
"""Drops the query if it is still queued; does nothing once it has ended."""


def submit(engine: Engine, query: Query[Response], reply: Reply[Response], deadline: float | None) -> Cancel:
    """Queue a query with the model that it names. Never raises: every error is an outcome, and is counted.

    Args:
        engine: Looks the model up.
        query: Decoded here, once for each version that is tried.
        reply: Gets the outcome.
        deadline: The call's, on the monotonic clock in seconds; None if the caller waits for ever.

    Returns:
        A function that cancels the query.
    """
    started = time.perf_counter_ns()

    def fail(error: Exception) -> None:
        record_failure(engine, error, started, query.model_name, query.model_version)
        reply(Failed(error))

    def queue_with(model: ServedModel) -> Cancel:
        prepared = query.prepare(model, deadline)

        def encode(result: InferenceResult) -> Response:
            try:
                return prepared.encode(result)
            except Exception as error:
                record_failure(engine, error, started, query.model_name, query.model_version)
                raise

        def on_complete(result: InferenceResult | ServerError) -> None:
            if isinstance(result, ServerError):
                fail(result)
            else:
                reply(Answered(result, encode))

        request = model.submit(prepared.inputs, prepared.datatypes, on_complete, prepared.deadline)
        return lambda: model.cancel(request)

    try:
        return retry_after_swap(engine, query.model_name, query.model_version, queue_with)
    except Exception as error:
        fail(error)
        return lambda: None


def retry_after_swap(engine: Engine, name: str, version: str, attempt: Callable[[ServedModel], T]) -> T:
    """Call ``attempt`` with the model of this name and version, and return what it returns.

    A model may be replaced, and closed, between its look-up and the moment when the query is queued. Then ``attempt``
    raises UnavailableError although the name is served, and it is called again with the successor.

    Raises:
        NotFoundError: The model or the version is not served.
        UnavailableError: The server is loading or stopping.
        ServerError: Whatever else ``attempt`` raises.
    """
    while True:
        model = engine.model(name, version)
        try:
            return attempt(model)
        except UnavailableError:
            if engine.model(name, version) is model:
                raise


def record_failure(engine: Engine, error: Exception, started: int, name: str = "", version: str = "") -> None:
    """Count a failed request under its status code: the one place where a transport counts failures.

    Args:
        engine: Keeps the counters.
        error: What the request failed with.
        started: When it came, by time.perf_counter_ns.
        name: The model's name as the caller sent it; empty for a request that was refused before it was read.
        version: The model's version, likewise.
    """
    engine.record_failure(name, version, status_code(error).name, time.perf_counter_ns() - started)


@contextmanager
def failures_recorded(engine: Engine) -> Iterator[None]:
    """Count an error that is raised inside, before there is a query that names a model."""
    started = time.perf_counter_ns()
    try:
        yield
    except Exception as error:
        record_failure(engine, error, started)
        raise
