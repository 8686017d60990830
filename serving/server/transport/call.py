"""A call of a transport: the one way of a request from a transport into the engine, and of its outcome back.

Every request, whatever brought it, is a `TransportCall`, which is the entry of its model's queue too. `submit` looks
its model up, lets its `Query` decode it for that model, and queues it. Retries after a model swap, the counting of
failures and the spans are here, so that unary calls, streams, comparisons, native and HTTP differ in how an answer
leaves alone.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from hangtag.serving.server.batching.call import Call, InferenceResult
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import CancelledError, MessageTooLargeError, QueueFullError, UnavailableError
from hangtag.serving.server.transport.status import status
from hangtag.serving.server.transport.tracing import Metadata, Tracing

LARGE_MESSAGE = 64 * 1024
"""Bytes from which on a request is decoded, and its answer encoded, on a thread: strings are handled one by one, which
takes more than a millisecond here, and a second for the largest message."""


class LazyMetadata:
    """A call's metadata, read when something iterates over it: most calls are answered without."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Metadata]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._read())


class Origin(Protocol):
    """What a transport knows of a call before it has read a request."""

    @property
    def method(self) -> str:
        """/package.Service/Method, or an HTTP method and its route."""

    @property
    def metadata(self) -> Metadata:
        """What the caller sent; a trace continues from its ``traceparent``, and a route may go by one key."""

    @property
    def tracing(self) -> Tracing | None:
        """Gets a span for each request; None records none."""


@dataclass(slots=True)
class CallOrigin:
    """The `Origin` of a call that may have several requests, as streams and comparisons have."""

    method: str
    metadata: Metadata = ()
    tracing: Tracing | None = None


class TransportCall(Call):
    """A request of a transport, from before it is decoded until its outcome. It is an `Origin` too."""

    engine: Engine
    """Looks its model up, and counts its failure."""
    method: str
    metadata: Metadata
    tracing: Tracing | None
    started: int
    """When it came, by time.perf_counter_ns."""
    query: "Query | None" = None
    """The request, from when it is read until it is decoded."""
    model_name: str = ""
    model_version: str = ""
    """Empty: the version that serves by default."""
    encode: Callable[[InferenceResult], Any]
    """Turns the model's result into the transport's response; may raise ServerError. Set by the query."""
    outputs: Sequence[str] = ()
    """The outputs that the response carries whole; empty for a response whose size they do not set. Set likewise."""

    @abstractmethod
    def respond(self, result: InferenceResult, *, is_large: bool) -> None:
        """Send the response of a result. is_large: whether encoding takes long, and would hold up an event loop."""

    @abstractmethod
    def refuse(self, error: Exception) -> None:
        """Send an error, which is counted already."""

    def answer(self, result: InferenceResult) -> None:
        outputs = result.outputs
        size = sum([outputs[name].nbytes for name in self.outputs or outputs])
        is_large = size >= LARGE_MESSAGE
        try:
            if is_large and self.outputs:
                require_size(self.engine, "Sent", size)  # before it is copied
        except MessageTooLargeError as error:
            self.fail(error)
        else:
            self.respond(result, is_large=is_large)

    def fail(self, error: Exception) -> None:
        record_failure(self.engine, self, error, self.started, self.model_name, self.model_version)
        self.refuse(error)

    def encoded(self, result: InferenceResult) -> Any:
        """Encode a result. Call it once. Raises ServerError if the result has no meaning."""
        try:
            response = self.encode(result)
        except Exception as error:
            record_failure(self.engine, self, error, self.started, self.model_name, self.model_version)
            raise
        if self.tracing is not None:
            ns = time.perf_counter_ns() - self.started
            self.tracing.record(self.method, self.metadata, ns, grpc.StatusCode.OK, result.timings)
        return response

    def metadata_value(self, key: str) -> str:
        values = (value for name, value in self.metadata if name == key and isinstance(value, str))
        return next(values, "")


class Query(Protocol):
    """A request for one model, not decoded yet."""

    @property
    def model_name(self) -> str: ...

    @property
    def model_version(self) -> str: ...

    def prepare(self, model: Servable, call: TransportCall) -> None:
        """Decode the request for this model: set the call's inputs, samples, batch key, encode and outputs.

        Args:
            model: The version that will compute the request. Another one may follow, if it is replaced meanwhile.
            call: Its deadline may become earlier.

        Raises:
            InvalidRequestError: The request does not fit the model.
        """


def submit(call: TransportCall) -> None:
    """Decode a call's query and queue the call with the model that it names. Never raises: an error is its outcome.

    A model may be replaced, and closed, between its look-up and the moment when the call is queued. Then it raises
    UnavailableError although the name is served, and the call goes to its successor.
    """
    query, call.query = call.query, None  # so that the message does not wait in the queue with its arrays
    assert query is not None
    name, version = call.model_name, call.model_version = query.model_name, query.model_version
    try:
        require_caller(call)
        while True:
            model = call.engine.model(name, version)
            try:
                model.require_place()
                query.prepare(model, call)
                model.put(call)
            except UnavailableError:
                if call.engine.model(name, version) is model:
                    raise
            else:
                break
    except Exception as error:
        call.fail(error)
        return
    if call.cancelled:  # the caller left before there was anything to cancel
        call.cancel()


def require_caller(call: TransportCall) -> None:
    """Raise CancelledError if the caller has left."""
    if call.cancelled:
        raise CancelledError("the caller left before the request was decoded")


def require_size(engine: Engine, direction: str, size: int) -> None:
    """Raise MessageTooLargeError, in the words of gRPC's core, for a message over the limit.

    Args:
        engine: Has the configuration.
        direction: "Sent" or "Received".
        size: The message's, in bytes.
    """
    limit = engine.config.max_message_mib << 20
    if size > limit:
        raise MessageTooLargeError(f"SERVER: {direction} message larger than max ({size} vs. {limit})")


def record_failure(
    engine: Engine, origin: Origin, error: Exception, started: int, name: str = "", version: str = ""
) -> None:
    """Count a failed request under its status code, and record its span: the one place where transports do so.

    Args:
        engine: Keeps the counters.
        origin: What brought the request.
        error: What the request failed with.
        started: When it came, by time.perf_counter_ns.
        name: The model's name as the caller sent it; empty for a request that was refused before it was read.
        version: The model's version, likewise.
    """
    code = status(error).grpc
    ns = time.perf_counter_ns() - started
    engine.record_failure(name, version, code.name, ns, shed=isinstance(error, QueueFullError))
    if origin.tracing is not None:
        origin.tracing.record(origin.method, origin.metadata, ns, code)


class failures_recorded:  # noqa: N801 - a context manager, in a class because a generator takes longer
    """Count and trace an error that is raised inside, before there is a query that names a model."""

    __slots__ = ("_engine", "_origin", "_started")

    def __init__(self, engine: Engine, origin: Origin) -> None:
        self._engine = engine
        self._origin = origin

    def __enter__(self) -> None:
        self._started = time.perf_counter_ns()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception):
            record_failure(self._engine, self._origin, error, self._started)
