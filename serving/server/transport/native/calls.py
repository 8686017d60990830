"""The calls of ModelInfer and Classify on the native transport: from the library's events to the responses.

A ModelInfer whose head has a `Plan` is queued at once, and the calls of a batch are answered by one loop. All others
take the slow way, `submit`, to the same queue.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from hangtag.protos import classifier_pb2
from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import STOPPING, InvalidRequestError, ServerError, UnavailableError
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.transport.call import (
    LARGE_MESSAGE,
    Query,
    TransportCall,
    require_caller,
    require_size,
    submit,
)
from hangtag.serving.server.transport.codec import parse_message
from hangtag.serving.server.transport.cost_metadata import QUEUE_NS, batch_metadata, cost_metadata
from hangtag.serving.server.transport.methods import CLASSIFY, MODEL_INFER
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.image_query import classify_query, has_large_picture
from hangtag.serving.server.transport.queries.infer_query import infer_query, serialized
from hangtag.serving.server.transport.queries.plans import Plan, Plans
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.status import call_status
from hangtag.serving.server.transport.tracing import Metadata, Tracing

log = structlog.get_logger()

METHODS = (MODEL_INFER, CLASSIFY)
"""The methods that are served here, in the order in which the library numbers them."""
MAX_EVENTS = 256
"""Events that are taken from the library at once."""
TIMEOUT_HEADER = "grpc-timeout"
"""The header that the library has to pass on as each event's key. It takes it for no deadline where it cannot read it,
and leaves it out of the metadata."""
_INFER_ID = METHODS.index(MODEL_INFER)


class NativeCalls:
    """Queues each call, and answers it. Thread-safe but for ``receive``, for one thread at a time."""

    def __init__(
        self, engine: Engine, decoding: DecodingThreads, authorise: Authorise | None, tracing: Tracing | None
    ) -> None:
        """Serve no call yet; ``front`` has to be set first.

        Args:
            engine: Has the models, and the configuration.
            decoding: Decode pictures and large messages, so that none holds up the thread that receives calls.
            authorise: Checks every call; None lets everybody call.
            tracing: Gets a span for each query; None records none.
        """
        self.front: NativeGrpcFront
        self.open: dict[int, NativeCall] = {}
        """The calls that have not ended, by the library's number."""
        self.engine = engine
        self.decoding = decoding
        self.tracing = tracing
        self._authorise = authorise
        self._plans = Plans(engine)
        self._guarded = authorise is not None  # whether each call is looked at before it is queued
        self._stopping = False

    def receive(self, milliseconds: int | None) -> bool:
        """Take the events that have come, and queue their calls: see `compute_pool.Receive`."""
        events = self.front.recv_batch_details(MAX_EVENTS, milliseconds)
        if events is None:
            return False
        find, now = self._plans.find, time.monotonic
        for event in events:
            try:
                kind, call_id, method_id, message, key, details = event
                if kind == EVENT_CANCEL or message is None or details is None:  # only a cancel has neither
                    self._cancel(call_id)
                    continue
                metadata, _peer, remaining = details
                deadline = None if remaining is None else now() + remaining
                call = self.open[call_id] = NativeCall(self, call_id, METHODS[method_id], metadata, deadline)
                plan = None if method_id != _INFER_ID or self._guarded else find(message)
                if plan is None or (remaining is None and isinstance(key, bytes)):
                    self._submit_slowly(call, message, key)
                    continue
                plan.decode(message, call)
                call.plan = plan
                try:
                    plan.model.put(call)
                except UnavailableError:  # another version serves by now, or none
                    call.plan = None
                    self._submit(call, message)
                except ServerError as error:
                    call.fail(error)
            except Exception:  # a bug of ours must not cost the events that came with this one
                log.exception("an event was lost")
        return True

    def _submit_slowly(self, call: "NativeCall", message: bytes, key: bytes | str | None) -> None:
        """Check a call whose message has no plan, and queue it or hand it to a thread that decodes it."""
        try:
            self._require_admission(call.metadata)
            require_size(self.engine, "Received", len(message))
            if call.deadline is None:
                _require_no_timeout(key)
            if call.method == CLASSIFY:
                self._submit_on_thread(call, lambda: self._classify_query(call, message))
            elif len(message) >= LARGE_MESSAGE and self._plans.find(message) is None:
                call.is_large = True
                self._submit_on_thread(call, lambda: infer_query(message, self._plans))
            else:
                self._submit(call, message)
        except Exception as error:
            call.fail(error)

    def _require_admission(self, metadata: Metadata) -> None:
        if self._authorise is not None:
            self._authorise(metadata)
        if self._stopping:
            raise UnavailableError(STOPPING)

    def _submit(self, call: "NativeCall", message: bytes) -> None:
        query = infer_query(message, self._plans)
        call.query, call.request = query, query.request
        submit(call)

    def refuse_new(self) -> None:
        """Answer every further call with UNAVAILABLE."""
        self._stopping = self._guarded = True

    def cancel_all(self) -> None:
        """Drop all calls that have not ended."""
        for call_id in list(self.open):
            self._cancel(call_id)

    def _classify_query(self, call: "NativeCall", message: bytes) -> Query:
        call.request = request = parse_message(classifier_pb2.ClassifyRequest.FromString, message, CLASSIFY)
        return classify_query(request)

    def _submit_on_thread(self, call: "NativeCall", query_of: Callable[[], Query]) -> None:
        """Decode and submit a call on a thread of its own. Raises QueueFullError when too many wait for one."""
        self.decoding.take_place()

        def read() -> None:
            try:
                require_caller(call)
                call.query = query = query_of()
                is_large = has_large_picture(query)
            except Exception as error:
                self.decoding.leave_place()
                call.fail(error)
                return
            self.decoding.decode(decode_and_submit, is_large=is_large)

        def decode_and_submit() -> None:
            self.decoding.leave_place()
            submit(call)

        self.decoding.submit(read)

    def _cancel(self, call_id: int) -> None:
        call = self.open.get(call_id)
        if call is not None:
            call.cancel()


def _require_no_timeout(key: bytes | str | None) -> None:
    """Raise InvalidRequestError if a call without a deadline has the header for it. A str is the caller's address."""
    if isinstance(key, bytes):
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be 1 to 8 digits and a unit, which is one of H, M, S, m, u and n, "
            f"not {key.decode('latin-1')!r}"
        )


class NativeCall(TransportCall):
    """A call that ends once, with one message or with a status."""

    plan: Plan | None = None
    """Of its message; None where it has none."""
    is_large = False
    """Decoding the request takes long, and so may encoding the response."""
    request: object = None
    """The parsed request, for the log."""

    def __init__(
        self, calls: NativeCalls, call_id: int, method: str, metadata: Metadata, deadline: float | None
    ) -> None:
        """Describe a call that is not decoded yet.

        Args:
            calls: Those that it is one of.
            call_id: The library's number of it.
            method: /package.Service/Method.
            metadata: What the caller sent.
            deadline: On the monotonic clock in seconds; None for none.
        """
        self.id = call_id
        self.engine = calls.engine
        self.method = method
        self.metadata = metadata
        self.tracing = calls.tracing
        self.started = time.perf_counter_ns()
        self.deadline = deadline
        self._calls = calls

    def respond(self, result: InferenceResult, *, is_large: bool) -> None:
        if self.is_large or is_large:
            self._calls.decoding.submit(partial(self._send, result))
        else:
            self._send(result)

    def refuse(self, error: Exception) -> None:
        """End the call with the error's status. The library ignores it where the caller has left."""
        code, message = call_status(error, self.method, self.plan.request if self.plan else self.request)
        number: int = code.value[0]
        self._calls.front.fail(self.id, number, message)
        self._calls.open.pop(self.id, None)  # last: the server is not closed while calls are open

    def _send(self, result: InferenceResult) -> None:
        try:
            message = serialized(self.encoded(result))
        except Exception as error:
            self.refuse(error)  # it is counted
            return
        try:
            require_size(self.engine, "Sent", len(message))
        except ServerError as error:
            self.fail(error)
            return
        self._calls.front.respond(self.id, message, None, cost_metadata(result.timings))
        self._calls.open.pop(self.id, None)  # last, as above

    def parts(self, outputs: Tensors, cost: BatchCost) -> list[tuple[bytes, bytes, int]]:
        """See `Plan.parts`. Empty also where each response of the batch has to be made by itself."""
        if self.plan is None or self.tracing is not None:
            return []
        try:
            return self.plan.parts(outputs, cost)
        except Exception:  # a bug of ours, which each call then meets by itself
            log.exception("answering a batch at once failed")
            return []

    @classmethod
    def answer_batch(cls, calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
        """Send the rows of each call, in one loop over all that have plans: each output becomes bytes once."""
        spent = batch_metadata(cost)
        plan: Plan | None = None
        parts: list[tuple[bytes, bytes, int]] = []
        for call in calls:
            assert isinstance(call, NativeCall)
            if call.plan is not plan:
                plan = call.plan
                parts = call.parts(outputs, cost)
            if not parts:
                call.end(call.part_of(outputs, cost))
                continue
            row, end = call.row, call.row + call.samples
            message = b"".join([piece for head, raw, size in parts for piece in (head, raw[row * size : end * size])])
            call._calls.front.respond(call.id, message, None, ((QUEUE_NS, str(call.queue_ns)), *spent))
            call._calls.open.pop(call.id, None)
