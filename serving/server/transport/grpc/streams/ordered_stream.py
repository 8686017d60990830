"""One stream of requests: computed together, answered in order.

Two coroutines work on a stream:

- The *reader* (`read`, a task of its own) takes each request from gRPC, gives it a place at the end of the queue of
  places, and submits its query. It does not wait for earlier answers, so requests of one stream share batches.
- The *writer* (`outcomes`, in the task of the call) takes places from the front of the queue only, and waits until the
  first has its outcome. So responses leave in the order of the requests, in whatever order their queries complete.

Back-pressure: the reader waits while the queue holds ``window`` places, or ``max_bytes`` of requests and answers. An
answer counts from the moment when it is computed until the writer takes it. One that is not computed yet counts as the
answers before it let expect, and until one is known there are `FIRST` places at most. Where answers turn out larger
than expected, the queue holds more than max_bytes, at most ``window`` answers, and nothing is read until it does not.
The writer frees places, and gRPC's flow control holds the writer up while the client does not read. So a client that
does not read its answers is soon not read either. While the queue is empty, a request is read whatever it takes, so no
stream stops for ever.

Cancellation: when the client cancels or disconnects, or the deadline passes, grpcio cancels the writer's task, which
calls `leave`. That cancels every query that has no outcome yet, and the reader ends.

Stop: after `stop` the reader takes no more requests. The writer answers those in the queue, and then ends the stream
with UNAVAILABLE, unless the client had finished sending.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from hangtag.serving.server.batching.call import memory_of
from hangtag.serving.server.errors import UnavailableError
from hangtag.serving.server.transport.queries.loop_calls import LoopCall

FIRST = 4
"""How many requests of a stream may be computed before the size of an answer is known."""

Request = TypeVar("Request")


@dataclass(eq=False, slots=True)
class _Place:
    """One request's place in the order of the answers."""

    request: Any
    size: int  # bytes
    call: LoopCall
    answer: int | None = None  # bytes; None until there is an outcome


class OrderedStream(Generic[Request]):
    """The requests of one stream that are not answered yet, in order. To be used on the event loop alone."""

    def __init__(self, window: int, max_bytes: int, call: Callable[[Request], LoopCall]) -> None:
        """Create a stream that has read nothing yet.

        Args:
            window: How many requests may be unanswered at once.
            max_bytes: How large these and their answers may be altogether; a single one may be larger.
            call: Makes the call of a request.
        """
        self._window = window
        self._max_bytes = max_bytes
        self._call = call
        self._changed = asyncio.Event()
        self._places: deque[_Place] = deque()
        self._held = 0  # bytes of the requests in the queue, and of those of their answers that are computed
        self._computing = 0  # places without an outcome
        self._expected: int | None = None  # bytes of an answer that is not computed; None before the first one
        self._finished = False  # the client has sent everything, or a message that ends the stream
        self._read_error: Exception | None = None
        self._stopped = False
        self._left = False

    async def read(self, requests: AsyncIterator[Request], submit: Callable[[LoopCall, int], Awaitable[None]]) -> None:
        """Submit each request as it arrives, until the client has sent all of them or the stream ends.

        Args:
            requests: Waits for the next request; raises grpc.aio.BaseError once the call has ended.
            submit: Queues the call of a request of so many bytes, and never raises.
        """
        try:
            async for request in requests:
                place = await self._add_place(request)
                if place is None:
                    return
                await submit(place.call, place.size)
        except grpc.aio.BaseError:  # the call has ended
            return
        except Exception as error:
            self._read_error = error
        self._finished = True
        self._changed.set()

    async def outcomes(self) -> AsyncIterator[tuple[Request, int, LoopCall]]:
        """Yield each request, its bytes and its call with its outcome, in order, and end after the last.

        Raises:
            UnavailableError: The server stops, after everything that was read has its outcome.
            InvalidRequestError: The client sent bytes that are not a message, likewise.
        """
        while True:
            await self._until(lambda: bool(self._places) or self._finished or self._stopped)
            if not self._places:
                break
            place = self._places[0]
            await place.call
            self._completed(place)
            self._places.popleft()
            self._held -= place.size + (place.answer or 0)
            self._changed.set()
            yield place.request, place.size, place.call
        if self._read_error is not None:
            raise self._read_error
        if not self._finished:
            raise UnavailableError(
                "the server is stopping; send what it has not answered on a new stream to another replica"
            )

    def stop(self) -> None:
        """Read nothing more, and end once everything that was read is answered."""
        self._stopped = True
        self._changed.set()

    def leave(self) -> None:
        """End the stream, because the client has left or has all its answers, and cancel what is still queued."""
        self._left = True
        self._changed.set()
        for place in self._places:
            place.call.cancel()
        self._places.clear()

    async def _add_place(self, request: Any) -> _Place | None:
        """Wait for room and append a place; None when the stream reads no more."""
        size = request.ByteSize()
        await self._until(lambda: self._has_room(size) or self._stopped or self._left)
        if self._stopped or self._left:
            return None
        place = _Place(request, size, self._call(request))
        self._places.append(place)
        self._held += size
        self._computing += 1
        place.call.when_ended(partial(self._completed, place))
        self._changed.set()
        return place

    def _completed(self, place: _Place) -> None:
        """Count a place's answer; the second time, do nothing: the writer may be faster than the callback."""
        if place.answer is not None:
            return
        place.answer = 0
        self._computing -= 1
        if (result := place.call.result) is not None:
            place.answer = sum(map(memory_of, result.outputs.values()))
            self._held += place.answer
            # So a large answer among small ones holds up few requests after it.
            self._expected = max(place.answer, (self._expected or 0) // 2)
        self._changed.set()

    def _has_room(self, size: int) -> bool:
        if not self._places:
            return True
        if self._expected is None:
            return len(self._places) < min(FIRST, self._window) and self._held + size <= self._max_bytes
        answers = (self._computing + 1) * self._expected
        return len(self._places) < self._window and self._held + answers + size <= self._max_bytes

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
