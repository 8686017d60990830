"""One stream of requests: computed together, answered in order.

Three kinds of threads work on a stream:

- The *reader* (`read`, a thread of the stream's own) takes each request from gRPC, gives it a place at the end of the
  queue of places, and submits its query. It does not wait for earlier answers, so requests of one stream share batches.
- An *instance* of a model completes queries, in any order. Each outcome goes to its request's place.
- The *writer* (`outcomes`, on grpcio's handler thread) takes places from the front of the queue only, and waits until
  the first has its outcome. So responses leave in the order of the requests.

Back-pressure: the reader waits while the queue holds ``window`` places, or requests of ``max_bytes`` altogether. The
writer frees places, and gRPC's flow control holds the writer up while the client does not read. So a client that does
not read its answers is soon not read either. A request above max_bytes is read when the queue is empty.

Cancellation: when the client cancels or disconnects, or the deadline passes, gRPC calls `leave`. It wakes both threads,
which end, and cancels every query that has no outcome yet.

Stop: after `stop` the reader takes no more requests. The writer answers those in the queue, and then ends the stream
with UNAVAILABLE, unless the client had finished sending.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from hangtag.serving.server.errors import UnavailableError
from hangtag.serving.server.transport.submission import Cancel, Outcome, Reply

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Place(Generic[Result]):
    """One request's place in the order of the answers."""

    request: Any
    size: int  # bytes
    outcome: Outcome[Result] | None = None
    cancel: Cancel | None = None


class OrderedStream(Generic[Request, Result]):
    """The requests of one stream that are not answered yet, in order. Thread-safe."""

    def __init__(self, window: int, max_bytes: int) -> None:
        """Create a stream that has read nothing yet.

        Args:
            window: How many requests may be unanswered at once.
            max_bytes: How large these may be altogether; a single request may be larger.
        """
        self._window = window
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._places: deque[_Place[Result]] = deque()
        self._finished = False  # the client has sent everything, or a message that ends the stream
        self._read_error: Exception | None = None
        self._stopped = False
        self._left = False

    def read(self, requests: Iterator[Request], submit: Callable[[Request, Reply[Result]], Cancel]) -> None:
        """Submit each request as it arrives, until the client has sent all of them or the stream ends.

        Args:
            requests: Blocks until the next request is here; raises grpc.RpcError once the call has ended.
            submit: Queues the query of a request, and never raises.
        """
        try:
            for request in requests:
                place = self._add_place(request)
                if place is None:
                    return
                self._submit(place, submit)
        except grpc.RpcError:  # the call has ended, and `leave` was called
            return
        except Exception as error:
            self._read_error = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def outcomes(self) -> Iterator[tuple[Request, Outcome[Result]]]:
        """Yield each request with its outcome, in order; end after the last, or at once when the client has left.

        Raises:
            UnavailableError: The server stops, after everything that was read has its outcome.
            InvalidRequestError: The client sent bytes that are not a message, likewise.
        """
        while True:
            with self._changed:
                self._changed.wait_for(self._is_writer_due)
                if self._left:
                    return
                if not self._places:
                    break
                place = self._places.popleft()
                self._changed.notify_all()
            assert place.outcome is not None
            yield place.request, place.outcome
        if self._read_error is not None:
            raise self._read_error
        if not self._finished:
            raise UnavailableError(
                "the server is stopping; send what it has not answered on a new stream to another replica"
            )

    def stop(self) -> None:
        """Read nothing more, and end once everything that was read is answered."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def leave(self) -> None:
        """End the stream, because the client has left or has all its answers, and cancel what is still queued."""
        with self._changed:
            self._left = True
            cancels = [place.cancel for place in self._places if place.cancel is not None]
            self._changed.notify_all()
        for cancel in cancels:
            cancel()

    def _is_writer_due(self) -> bool:
        if self._left:
            return True
        if self._places:
            return self._places[0].outcome is not None
        return self._finished or self._stopped

    def _add_place(self, request: Any) -> _Place[Result] | None:
        """Wait for room and append a place; None when the stream reads no more."""
        size = request.ByteSize()
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(size) or self._stopped or self._left)
            if self._stopped or self._left:
                return None
            place: _Place[Result] = _Place(request, size)
            self._places.append(place)
            return place

    def _has_room(self, size: int) -> bool:
        if not self._places:
            return True
        return len(self._places) < self._window and sum(p.size for p in self._places) + size <= self._max_bytes

    def _submit(self, place: _Place[Result], submit: Callable[[Any, Reply[Result]], Cancel]) -> None:
        def reply(outcome: Outcome[Result]) -> None:
            with self._changed:
                place.outcome = outcome
                self._changed.notify_all()

        cancel = submit(place.request, reply)
        with self._changed:
            place.cancel = cancel
            left = self._left
        if left:  # `leave` may have come before it could see this place's cancel
            cancel()
