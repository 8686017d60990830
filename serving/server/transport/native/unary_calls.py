"""The calls of ModelInfer and Classify on the native transport: from the library's event to the response."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from hangtag.protos import classifier_pb2
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Computer
from hangtag.serving.server.errors import (
    STOPPING,
    CancelledError,
    InvalidRequestError,
    MessageTooLargeError,
    UnavailableError,
)
from hangtag.serving.server.transport.call import Call, record_failure
from hangtag.serving.server.transport.codec import parse_message
from hangtag.serving.server.transport.cost_metadata import cost_metadata
from hangtag.serving.server.transport.methods import CLASSIFY, MODEL_INFER
from hangtag.serving.server.transport.native.compute_threads import Event
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.image_query import ImageQuery, classify_query, has_large_picture
from hangtag.serving.server.transport.queries.infer_message import InferMessageQuery
from hangtag.serving.server.transport.queries.request_templates import RequestTemplates
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.status import call_status
from hangtag.serving.server.transport.submission import LARGE_MESSAGE, Cancel, Outcome, submit
from hangtag.serving.server.transport.tracing import Metadata, Tracing

METHODS = (MODEL_INFER, CLASSIFY)
"""The methods that are served here, in the order in which the library numbers them."""
TIMEOUT_HEADER = "grpc-timeout"
"""The header that the library has to pass on as each event's key. It takes it for no deadline where it cannot read it,
and leaves it out of the metadata."""
_CLASSIFY_ID = METHODS.index(CLASSIFY)
_DECODING_THREADS = 2


class UnaryCalls:
    """Submits the query of each call, and answers it. Thread-safe but for ``dispatch``, for one thread at a time."""

    def __init__(self, engine: Engine, authorise: Authorise | None, tracing: Tracing | None) -> None:
        """Serve no call yet; ``front`` has to be set first.

        Args:
            engine: Has the models, and the configuration.
            authorise: Checks every call; None lets everybody call.
            tracing: Gets a span for each query; None records none.
        """
        self.front: NativeGrpcFront
        self._max_message_bytes = engine.config.max_message_mib * 1024 * 1024
        self.open: dict[int, UnaryCall] = {}
        """The calls that have not ended, by the library's number."""
        self._engine = engine
        self._authorise = authorise
        self._tracing = tracing
        self._templates = RequestTemplates()
        self._stopping = False
        # Decoding a picture or a large message may take long, so it must not hold up the thread that receives calls.
        self._decoding = DecodingThreads(_DECODING_THREADS, engine.config.max_queue_size, "native-decode")

    def dispatch(self, event: Event, wake: bool) -> Sequence[Computer]:
        """Handle an event of the library: see `compute_threads.Dispatch`."""
        kind, call_id, method_id, message, key, details = event
        if kind == EVENT_CANCEL:
            self._cancel(call_id)
            return ()
        started = time.perf_counter_ns()
        metadata, _peer, remaining = details
        deadline = None if remaining is None else time.monotonic() + remaining
        call = UnaryCall(self, call_id, METHODS[method_id], metadata, self._tracing)
        self.open[call_id] = call
        try:
            self._require_admission(metadata, message)
            if remaining is None:
                _require_no_timeout(key)
            if method_id == _CLASSIFY_ID:
                self._submit_on_thread(call, lambda: _classify_query(call, message), deadline)
                return ()
            if len(message) >= LARGE_MESSAGE and self._templates.find(message) is None:
                call.is_large = True
                query_of = partial(InferMessageQuery, message, call, self._templates)
                self._submit_on_thread(call, query_of, deadline)
                return ()
            query = InferMessageQuery(message, call, self._templates)
        except Exception as error:
            record_failure(self._engine, call, error, started)
            call.fail(error)
            return ()
        call.request = query.request
        call.cancel = submit(self._engine, query, call, deadline, wake=wake)
        return () if query.model is None else query.model.computers

    def refuse_new(self) -> None:
        """Answer every further call with UNAVAILABLE."""
        self._stopping = True

    def cancel_all(self) -> None:
        """Drop the queries of all calls that have not ended."""
        for call_id in list(self.open):
            self._cancel(call_id)

    def require_size(self, direction: str, message: bytes) -> None:
        """Raise MessageTooLargeError, in the words of gRPC's core, for a message over the limit."""
        if len(message) > self._max_message_bytes:
            raise MessageTooLargeError(
                f"SERVER: {direction} message larger than max ({len(message)} vs. {self._max_message_bytes})"
            )

    def encode_on_thread(self, send: Callable[[], None]) -> None:
        """Encode and send a large response where that holds up neither receiving nor computing."""
        self._decoding.submit(send)

    def close(self) -> None:
        """End the threads that decode."""
        self._decoding.close(cancel=False)

    def _require_admission(self, metadata: Metadata, message: bytes) -> None:
        if self._authorise is not None:
            self._authorise(metadata)
        if self._stopping:
            raise UnavailableError(STOPPING)
        self.require_size("Received", message)

    def _submit_on_thread(self, call: "UnaryCall", query_of: Callable[[], Any], deadline: float | None) -> None:
        """Decode and submit a query on a thread of its own. Raises QueueFullError when too many wait for one."""
        self._decoding.take_place()
        started = time.perf_counter_ns()

        def fail(error: Exception) -> None:
            record_failure(self._engine, call, error, started)
            call.fail(error)

        def read() -> None:
            try:
                call.require_caller()
                query = query_of()
                is_large = has_large_picture(query)
            except Exception as error:
                self._decoding.leave_place()
                fail(error)
                return
            self._decoding.decode(lambda: decode_and_submit(query), is_large=is_large)

        def decode_and_submit(query: Any) -> None:
            self._decoding.leave_place()
            try:
                call.require_caller()  # who may have left while the query waited with other large pictures
            except CancelledError as error:
                fail(error)
                return
            call.cancel = submit(self._engine, query, call, deadline)
            if call.left:  # the caller left before there was anything to cancel
                call.cancel()

        self._decoding.submit(read)

    def _cancel(self, call_id: int) -> None:
        call = self.open.get(call_id)
        if call is not None:
            call.left = True
            if call.cancel is not None:
                call.cancel()


def _require_no_timeout(key: bytes | str) -> None:
    """Raise InvalidRequestError if a call without a deadline has the header for it. A str is the caller's address."""
    if isinstance(key, bytes):
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be 1 to 8 digits and a unit, which is one of H, M, S, m, u and n, "
            f"not {key.decode('latin-1')!r}"
        )


def _classify_query(call: "UnaryCall", message: bytes) -> ImageQuery:
    request = parse_message(classifier_pb2.ClassifyRequest.FromString, message, CLASSIFY)
    call.request = request
    call.serialize = classifier_pb2.ClassifyResponse.SerializeToString
    return classify_query(request, call)


class UnaryCall(Call):
    """A call that ends once. It is the `Reply` of its query."""

    __slots__ = ("_calls", "_id", "cancel", "is_large", "left", "request", "serialize")

    def __init__(
        self, calls: UnaryCalls, call_id: int, method: str, metadata: Metadata, tracing: Tracing | None
    ) -> None:
        super().__init__(method, metadata, tracing)
        self._calls = calls
        self._id = call_id
        self.left = False
        """The caller has left, or its deadline has passed."""
        self.is_large = False
        """Decoding the request takes long, and so may encoding the response."""
        self.cancel: Cancel | None = None
        """Drops the query, once it is submitted."""
        self.request: object = None
        """The parsed request, for the log."""
        self.serialize: Callable[[Any], bytes] | None = None
        """Turns the query's response into bytes, where it is not bytes already."""

    def require_caller(self) -> None:
        """Raise CancelledError if the caller has left."""
        if self.left:
            raise CancelledError("the caller left before the request was decoded")

    def __call__(self, outcome: Outcome[Any]) -> None:
        """Send the response of an outcome, or its error."""
        if self.is_large or outcome.is_large:
            self._calls.encode_on_thread(partial(self._send, outcome))
        else:
            self._send(outcome)

    def _send(self, outcome: Outcome[Any]) -> None:
        calls = self._calls
        try:
            response = outcome.response()
            message = response if self.serialize is None else self.serialize(response)
            calls.require_size("Sent", message)
        except Exception as error:
            self.fail(error)
            return
        timings = outcome.timings
        assert timings is not None  # a response has been computed
        calls.front.respond(self._id, message, None, cost_metadata(timings))
        del calls.open[self._id]  # last: the server is not closed while calls are open

    def fail(self, error: Exception) -> None:
        """End the call with the error's status. The library ignores it where the caller has left."""
        code, message = call_status(error, self.method, self.request)
        number: int = code.value[0]
        self._calls.front.fail(self._id, number, message)
        del self._calls.open[self._id]  # last: the server is not closed while calls are open
