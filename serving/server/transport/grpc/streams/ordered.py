"""Streams of requests: each is asked as it comes, so that those of one stream share batches, and answered in order.

A stream has a thread that reads (here) and one that writes (grpcio's, which runs ``Streams.answer``). Only so many
requests are on their way at once: a client that does not read its answers is not read either.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc

from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.transport.deadline import deadline_of
from hangtag.serving.server.transport.submission import Asked, response_of

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_STREAMS = 128
"""Open streams at once; each holds a thread of the pool, and one of its own."""

AskAbout: TypeAlias = Callable[[Request, OnComplete, float | None], Asked[Response]]
Refuse: TypeAlias = Callable[[Request, Exception], Response]
"""What a stream answers to a request that failed. It may raise: then the stream ends."""


class Streams:
    """Every open stream of a server."""

    def __init__(self, window: int, max_bytes: int) -> None:
        """window, max_bytes: how many requests of one stream may be on their way at once, and how large altogether;
        a single one may be larger."""
        self._limits = (window, max_bytes)
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._stopped = False

    def answer(
        self,
        requests: Iterator[Request],
        context: grpc.ServicerContext,
        ask: AskAbout[Request, Response],
        refuse: Refuse[Request, Response],
    ) -> Iterator[Response]:
        """A response for each request, in order.

        Raises UnavailableError when the server stops, after what was read is answered; QueueFullError at once when too
        many streams are open.
        """
        stream = _Stream(*self._limits)
        self._enter(stream)
        try:
            if context.add_callback(stream.leave):
                deadline = deadline_of(context)
                threading.Thread(target=stream.read, args=(requests, ask, deadline), name="stream", daemon=True).start()
                for place in stream.places():
                    response = place.response()
                    yield refuse(place.request, response) if isinstance(response, Exception) else response
        finally:
            stream.leave()
            with self._lock:
                self._open.discard(stream)

    def stop(self) -> None:
        """Read nothing more; each stream ends once it has answered what it has read. New ones are refused."""
        with self._lock:
            self._stopped = True
            streams = list(self._open)
        for stream in streams:
            stream.stop()

    def _enter(self, stream: "_Stream") -> None:
        with self._lock:
            if self._stopped:
                raise UnavailableError("the server is stopping and takes no new streams; try another replica")
            if len(self._open) >= MAX_STREAMS:
                raise QueueFullError(f"{MAX_STREAMS} streams are open; use one of them, or calls without a stream")
            self._open.add(stream)


@dataclass
class _Place:
    """One request's place in the order of the answers."""

    request: Any
    size: int  # bytes
    asked: Asked[Any] | None = None
    outcome: InferenceResult | Exception | None = None

    @property
    def ready(self) -> bool:
        # An answer may come before ``ask`` has returned; a refusal comes in its place.
        return isinstance(self.outcome, Exception) or (self.outcome is not None and self.asked is not None)

    def response(self) -> Any:
        """The response, or the Exception in its place. Only when ready."""
        if isinstance(self.outcome, Exception):
            return self.outcome
        assert self.asked is not None
        assert self.outcome is not None
        return response_of(self.asked, self.outcome)


class _Stream:
    def __init__(self, window: int, max_bytes: int) -> None:
        self._window = window
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._places: deque[_Place] = deque()
        self._finished = False  # the client has sent all that it wanted to, or what is no message
        self._failure: Exception | None = None
        self._stopped = False
        self._left = False

    def read(self, requests: Iterator[Any], ask: AskAbout[Any, Any], deadline: float | None) -> None:
        """Ask about each request as it comes; ends with the stream."""
        try:
            for request in requests:
                place = self._take_place(request)
                if place is None:
                    return
                self._ask(place, ask, deadline)
        except grpc.RpcError:  # the call has ended, and with it the stream
            return
        except Exception as error:
            self._failure = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def places(self) -> Iterator[_Place]:
        """Each place once it is ready, in order; ends with the requests, or at once when the client is gone.

        Raises what ended the requests, and UnavailableError when that is the server's stop.
        """
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news)
                if self._left:
                    return
                if not self._places:
                    break
                place = self._places.popleft()
                self._changed.notify_all()
            yield place
        if self._failure is not None:
            raise self._failure
        if not self._finished:
            raise UnavailableError(
                "the server is stopping; send what it has not answered on a new stream to another replica"
            )

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def leave(self) -> None:
        """The client is gone, or told everything: cancel what still waits."""
        with self._changed:
            self._left = True
            asked = [place.asked for place in self._places if place.asked is not None]
            self._changed.notify_all()
        for one in asked:
            one.cancel()

    def _has_news(self) -> bool:
        if self._places:
            return self._left or self._places[0].ready
        return self._left or self._finished or self._stopped

    def _take_place(self, request: Any) -> _Place | None:
        """None when the stream takes no more."""
        size = request.ByteSize()
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(size) or self._stopped or self._left)
            if self._stopped or self._left:
                return None
            place = _Place(request, size)
            self._places.append(place)
            return place

    def _has_room(self, size: int) -> bool:
        if not self._places:
            return True
        return len(self._places) < self._window and sum(p.size for p in self._places) + size <= self._max_bytes

    def _ask(self, place: _Place, ask: AskAbout[Any, Any], deadline: float | None) -> None:
        def complete(outcome: InferenceResult | Exception) -> None:
            with self._changed:
                place.outcome = outcome
                self._changed.notify_all()

        try:
            asked = ask(place.request, complete, deadline)
        except Exception as error:
            complete(error)
            return
        with self._changed:
            place.asked = asked
            left = self._left
            self._changed.notify_all()
        if left:
            asked.cancel()
