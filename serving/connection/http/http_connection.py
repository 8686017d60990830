"""Connections over HTTP/1.1 for threads."""

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any, TypeVar

from google.protobuf.message import Message

from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.http.async_http_connection import AsyncHttpConnection
from hangtag.serving.connection.method import Method, Response
from hangtag.serving.credentials import Credentials

Result = TypeVar("Result")
_END: Any = object()
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""The event loop of this process, and, after a fork, those of its parents. The keys are process ids."""


class HttpConnection:
    """``AsyncHttpConnection`` for threads. A calling thread waits while an event loop in another thread makes the call.

    Thread-safe. All connections of a process share one event loop. If a connection was used before a fork, its calls in
    the new process raise RuntimeError.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._connection = AsyncHttpConnection(address, timeout, credentials, options)

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        if closing := _close(self._connection):
            closing.result()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """See ``GrpcConnection.call``."""
        return _result(self._connection.call(method, request, timeout))

    def stream(self, method: Method[Response], requests: Iterable[Message], timeout: float | None) -> Iterator[Any]:
        """Yield each call's response or ClientError, in order. A separate thread reads the requests one by one."""
        raised: list[BaseException] = []
        responses = self._connection.stream(method, _taken(requests, raised), timeout)
        # If the caller stops reading, this generator drops ``responses``, and the event loop then closes the stream.
        while (response := _result(_next(responses))) is not _END:
            yield response
        if raised:
            raise raised.pop()


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process, which the first call starts in a thread that ends with the process."""
    process = os.getpid()
    if process not in _LOOPS:
        loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(loop,), name="http", daemon=True).start()
        if _LOOPS.setdefault(process, loop) is not loop:  # another thread has already started one
            loop.call_soon_threadsafe(loop.stop)
    return _LOOPS[process]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with closing(loop):
        loop.run_forever()


def _result(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Wait until the event loop has run a coroutine, and return its result."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C, for example
        raise


def _close(connection: AsyncHttpConnection) -> Future[None] | None:
    """Refuse further calls, and begin to close the connections."""
    connection.closed = True
    loop = _LOOPS.get(os.getpid())
    return None if loop is None else asyncio.run_coroutine_threadsafe(connection.close(), loop)


async def _next(responses: AsyncGenerator[Any, None]) -> Any:
    return await anext(responses, _END)


async def _taken(requests: Iterable[Message], raised: list[BaseException]) -> AsyncGenerator[Message, None]:
    """Yield the requests of an iterable that may block. A thread reads one request each time the stream asks for one.
    If the iterable raises an exception, it is appended to ``raised``, and the requests end."""
    wanted: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()

    def take() -> None:
        iterator = iter(requests)
        while future := wanted.get():
            try:
                future.set_result(next(iterator, _END))
            except BaseException as error:  # SystemExit would end the event loop
                raised.append(error)
                future.set_result(_END)

    threading.Thread(target=take, name="requests", daemon=True).start()
    try:
        while True:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()  # a cancelled future would refuse the thread's result
            wanted.put(future)
            if (request := await asyncio.wrap_future(future)) is _END:
                return
            yield request
    finally:
        wanted.put(None)
