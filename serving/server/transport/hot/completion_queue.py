"""grpcio's completion queue, driven directly: the one module that touches grpcio's private parts.

A ``SharedServer`` is grpcio's own server, with all that the public API gives, except that threads of ours poll its
queue and that single unary methods can be taken over. What grpcio asked for is passed on to its own thread, as if that
had polled itself. ``UnaryCall`` is one call of a method taken over, as bytes.

None of this is public API, so grpcio is used this way only in versions that were tried, and after self_test.py passed.
"""

import queue
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import grpc
from grpc import _interceptor, _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

Metadata = Sequence[tuple[str, str | bytes]]

OPERATION_DONE = cygrpc.CompletionType.operation_complete
TIMED_OUT = cygrpc.CompletionType.queue_timeout
_FLAGS = 0
_NO_DEADLINE = 1e12  # by the wall clock, in seconds: gRPC's "infinite future" lies beyond
_OK: int = cygrpc.StatusCode.ok


class SharedQueue(cygrpc.CompletionQueue):  # type: ignore[misc]
    """``next`` is for us, ``poll`` for grpcio's own thread, which gets the events that were passed on."""

    def __init__(self) -> None:
        self._passed_on: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.next = super().poll
        """(deadline: float | None, by the wall clock) -> event. One thread at a time."""

    def pass_on(self, event: Any) -> None:
        self._passed_on.put(event)

    def poll(self, deadline: float | None = None) -> Any:
        timeout = None if deadline is None else max(0.0, deadline - time.time())
        try:
            return self._passed_on.get(timeout=timeout)
        except queue.Empty:
            return cygrpc.ConnectivityEvent(TIMED_OUT, False, None)


class Tag:
    """What was asked of the queue by us."""

    __slots__ = ()

    @abstractmethod  # without ABCMeta: it would slow down the isinstance of every event
    def done(self, event: Any) -> object:
        """Called with its event, on the thread that polls."""


class SharedServer(_server._Server):
    """grpcio's server around a queue of ours. Everything public works as it does in ``grpc.server``."""

    def __init__(
        self,
        thread_pool: futures.ThreadPoolExecutor,
        *,
        interceptors: Sequence[grpc.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
        maximum_concurrent_rpcs: int | None,
    ) -> None:
        self.queue = SharedQueue()
        self._cy_server = cygrpc.Server(options, False)
        self._cy_server.register_completion_queue(self.queue)
        self._state = _server._ServerState(
            self.queue,
            self._cy_server,
            [],
            _interceptor.service_pipeline(interceptors),
            thread_pool,
            maximum_concurrent_rpcs,
        )

    def take_over(self, method: str) -> None:
        """From ``start`` on, calls of this method (/package.Service/Method) are for those who ``request`` them."""
        self._cy_server.register_method(method)
        self._state.registered_method_handlers.pop(method, None)

    def request(self, method: str, tag: Tag) -> bool:
        """Ask for one call of a method taken over; says whether there can still be one."""
        try:
            self._cy_server.request_registered_call(self.queue, self.queue, method, tag)
        except ValueError:  # it is shutting down
            return False
        return True


class UnaryCall(Tag):
    """A call whose handler sends one message, or an error, from any thread and once."""

    __slots__ = ("_call", "_then", "_watched", "deadline", "ended", "metadata")

    def __init__(self, event: Any) -> None:
        self._call = event.call
        self._watched = False
        self.ended = False
        """It was answered or refused."""
        self.metadata: Metadata = event.invocation_metadata
        deadline: float = event.call_details.deadline
        self.deadline = None if deadline > _NO_DEADLINE else deadline - time.time() + time.monotonic()
        """On the monotonic clock, in seconds."""

    def receive(self, then: "Callable[[UnaryCall, bytes | None], object]") -> None:
        """Read the request; None when the caller sent none, or one over the limit (which gRPC refuses by itself)."""
        self._then = then
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_FLAGS),), self)

    def done(self, event: Any) -> object:
        """The request is here."""
        return self._then(self, event.batch_operations[0].message())

    def watch(self, then: Callable[[], None]) -> None:
        """Be told when the caller cancels, disconnects or is out of time. Before the call can be answered, and once."""
        if self._watched:  # it is being tried again, with the successor of its model
            return
        self._watched = True
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_FLAGS),), _Closed(then))

    def answer(self, message: bytes, trailing: Metadata) -> None:
        self._end(
            (
                cygrpc.SendInitialMetadataOperation((), _FLAGS),
                cygrpc.SendMessageOperation(message, _FLAGS),
                cygrpc.SendStatusFromServerOperation(trailing, _OK, b"", _FLAGS),
            )
        )

    def refuse(self, status: grpc.StatusCode, details: str) -> None:
        self._end(
            (
                cygrpc.SendInitialMetadataOperation((), _FLAGS),
                cygrpc.SendStatusFromServerOperation((), status.value[0], details, _FLAGS),
            )
        )

    def _end(self, operations: tuple[Any, ...]) -> None:
        self.ended = True
        # gRPC keeps a call until its close was received: for one that nobody watched, that goes in the same batch. The
        # operation objects are fresh each time: shared ones corrupt calls.
        if not self._watched:
            operations = (*operations, cygrpc.ReceiveCloseOnServerOperation(_FLAGS))
        self._call.start_server_batch(operations, _SENT)


class _Closed(Tag):
    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def done(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self._then()


class _Sent(Tag):
    __slots__ = ()

    def done(self, event: Any) -> None:
        """Nothing more to do, whether it arrived or the caller is gone."""


_SENT = _Sent()
