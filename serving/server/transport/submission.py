"""Submit a query to the model that serves its name: the one way of a request from a transport into the engine.

A transport wraps its message in a `Query` and passes it to `submit`, which looks the model up, lets the query decode
itself for that model, checks it, and puts the inputs into the model's queue. The transport's `Reply` gets the
`Outcome`. Retries after a model swap, the counting of failures and the span of each query are here, so that unary
calls, streams and comparisons differ in their reply alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar

import grpc

from hangtag.serving.server.batching.request import InferenceResult, Tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import MessageTooLargeError, ServerError, UnavailableError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.call import Call, record_failure

Response = TypeVar("Response")

LARGE_MESSAGE = 64 * 1024
"""Bytes from which on a request is decoded, and its answer encoded, on a thread: strings are handled one by one, which
takes more than a millisecond here, and a second for the largest message."""


@dataclass(slots=True)
class PreparedQuery(Generic[Response]):
    """A query that is decoded for one version of its model."""

    inputs: Tensors
    datatypes: Mapping[str, str]
    deadline: float | None
    """On the monotonic clock, in seconds."""
    encode: Callable[[InferenceResult], Response]
    """Turns the model's result into the transport's response; may raise ServerError."""
    admission: Admission | None = None
    """What the model's check returned for these shapes and datatypes before; None: the inputs are checked now."""
    outputs: Sequence[str] = ()
    """The names of the outputs that the response carries whole; empty for a response whose size they do not set."""


class Query(Protocol[Response]):
    """A transport's request for one model, not decoded yet."""

    @property
    def call(self) -> Call:
        """The call that brought the request."""

    @property
    def model_name(self) -> str: ...

    @property
    def model_version(self) -> str:
        """Empty: the version that serves by default."""

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[Response]:
        """Decode the request for this model.

        Args:
            model: The version that will compute the query.
            deadline: The call's deadline; the request may set an earlier one.

        Raises:
            InvalidRequestError: The request does not fit the model.
        """


@dataclass(slots=True)
class Answered(Generic[Response]):
    """The outcome of a query that the model answered.

    The result is encoded only when `response` is called, so that the thread that sends it spends the time, and not the
    thread that computes batches.
    """

    result: InferenceResult
    encode: Callable[[InferenceResult], Response]
    is_large: bool
    """Whether encoding may take long, and would hold up an event loop."""

    @property
    def timings(self) -> Timings | None:
        return self.result.timings

    def response(self) -> Response:
        """Encode the result. Call it once. Raises ServerError if the result has no meaning."""
        return self.encode(self.result)


@dataclass(slots=True)
class Failed:
    """The outcome of a query that was refused, dropped, or failed."""

    error: Exception
    is_large = False

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


def submit(
    engine: Engine, query: Query[Response], reply: Reply[Response], deadline: float | None, *, wake: bool = True
) -> Cancel:
    """Queue a query with the model that it names. Never raises: every error is an outcome, and is counted.

    Args:
        engine: Looks the model up.
        query: Decoded here, once for each version that is tried.
        reply: Gets the outcome.
        deadline: The call's, on the monotonic clock in seconds; None if the caller waits for ever.
        wake: Wake a thread of the model. A transport whose own thread takes the next batch passes False.

    Returns:
        A function that cancels the query.
    """
    submission = _Submission(engine, query, reply)
    try:
        return submission.queue(deadline, wake)
    except Exception as error:
        submission.fail(error)
        return _nothing


def _nothing() -> None:
    """Cancels a query that was refused."""


class _Submission(Generic[Response]):
    """One query between `submit` and its outcome."""

    __slots__ = ("_encode", "_engine", "_outputs", "_query", "_reply", "_started")

    def __init__(self, engine: Engine, query: Query[Response], reply: Reply[Response]) -> None:
        self._started = time.perf_counter_ns()
        self._engine = engine
        self._query = query
        self._reply = reply

    def queue(self, deadline: float | None, wake: bool) -> Cancel:
        """Put the query into the queue of its model, or of the successor of a model that is closed meanwhile.

        A model may be replaced, and closed, between its look-up and the moment when the query is queued. Then it raises
        UnavailableError although the name is served.

        Returns:
            What cancels the query. It does not refer to this submission, which may refer to the call that keeps it: so
            no reference cycle keeps an unloaded model in memory.

        Raises:
            ServerError: The query is refused.
        """
        name, version = self._query.model_name, self._query.model_version
        while True:
            model = self._engine.model(name, version)
            try:
                model.require_place()
                prepared = self._query.prepare(model, deadline)
                self._encode = prepared.encode
                self._outputs = prepared.outputs
                cancel = model.submit(
                    prepared.inputs,
                    prepared.datatypes,
                    self._complete,
                    prepared.deadline,
                    admission=prepared.admission,
                    wake=wake,
                    key=self._metadata_value,
                )
            except UnavailableError:
                if self._engine.model(name, version) is model:
                    raise
            else:
                return cancel

    def _metadata_value(self, key: str) -> str:
        values = (value for name, value in self._query.call.metadata if name == key and isinstance(value, str))
        return next(values, "")

    def fail(self, error: Exception) -> None:
        self._record_failure(error)
        self._reply(Failed(error))

    def _complete(self, result: InferenceResult | ServerError) -> None:
        if isinstance(result, ServerError):
            self.fail(result)
            return
        outputs = result.outputs
        size = sum([outputs[name].nbytes for name in self._outputs or outputs])
        is_large = size >= LARGE_MESSAGE
        limit = self._engine.config.max_message_mib << 20
        if is_large and self._outputs and size > limit:  # refused before it is copied, in the words of gRPC's core
            self.fail(MessageTooLargeError(f"SERVER: Sent message larger than max ({size} vs. {limit})"))
        else:
            self._reply(Answered(result, self._respond, is_large))

    def _respond(self, result: InferenceResult) -> Response:
        try:
            response = self._encode(result)
        except Exception as error:
            self._record_failure(error)
            raise
        call = self._query.call
        if call.tracing is not None:
            ns = time.perf_counter_ns() - self._started
            call.tracing.record(call.method, call.metadata, ns, grpc.StatusCode.OK, result.timings)
        return response

    def _record_failure(self, error: Exception) -> None:
        query = self._query
        record_failure(self._engine, query.call, error, self._started, query.model_name, query.model_version)
