"""All open streams of a server: how many there may be, and how they end when the server stops."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.transport.grpc.calls import call_deadline
from hangtag.serving.server.transport.grpc.streams.ordered_stream import OrderedStream
from hangtag.serving.server.transport.submission import Cancel, Outcome, Query, Reply, submit

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")

MAX_STREAMS = 128
"""Open streams at once; each takes a thread of the pool to write, and a thread of its own to read."""


class OpenStreams:
    """Answers the streams of a server. Thread-safe."""

    def __init__(self, engine: Engine, window: int, max_bytes: int) -> None:
        """Set the limits of each stream.

        Args:
            engine: Has the models that are queried.
            window: How many requests of one stream may be unanswered at once.
            max_bytes: How large these may be altogether; a single request may be larger.
        """
        self._engine = engine
        self._window = window
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._streams: set[OrderedStream[Any, Any]] = set()
        self._stopped = False

    def answer(
        self,
        requests: Iterator[Request],
        context: grpc.ServicerContext,
        query: Callable[[Request], Query[Result]],
        respond: Callable[[Request, Outcome[Result]], Response],
    ) -> Iterator[Response]:
        """Answer each request of a stream, in order.

        Args:
            requests: The messages, as grpcio hands them over.
            context: The stream's call; its deadline is the deadline of every request.
            query: Makes the query of a request.
            respond: Makes the response of a request's outcome; an error that it raises ends the stream.

        Raises:
            QueueFullError: Too many streams are open.
            UnavailableError: The server stops, after everything that was read is answered.
            InvalidRequestError: The client sent bytes that are not a message, likewise.
        """
        stream: OrderedStream[Request, Result] = OrderedStream(self._window, self._max_bytes)
        self._add(stream)
        try:
            if context.add_callback(stream.leave):  # else the call has ended already
                deadline = call_deadline(context)

                def submit_request(request: Request, reply: Reply[Result]) -> Cancel:
                    return submit(self._engine, query(request), reply, deadline)

                reader = threading.Thread(
                    target=stream.read, args=(requests, submit_request), name="stream", daemon=True
                )
                reader.start()
                for request, outcome in stream.outcomes():
                    yield respond(request, outcome)
        finally:
            stream.leave()
            with self._lock:
                self._streams.discard(stream)

    def stop(self) -> None:
        """Read nothing more; each stream ends once it has answered what it has read. New streams are refused."""
        with self._lock:
            self._stopped = True
            streams = list(self._streams)
        for stream in streams:
            stream.stop()

    def _add(self, stream: OrderedStream[Any, Any]) -> None:
        with self._lock:
            if self._stopped:
                raise UnavailableError("the server is stopping and takes no new streams; try another replica")
            if len(self._streams) >= MAX_STREAMS:
                raise QueueFullError(f"{MAX_STREAMS} streams are open; use one of them, or calls without a stream")
            self._streams.add(stream)
