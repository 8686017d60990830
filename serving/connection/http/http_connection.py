"""Connections over HTTP/1.1 for threads."""

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.http.async_http_connection import AsyncHttpConnection
from hangtag.serving.connection.method import Method, Response
from hangtag.serving.credentials import Credentials

Result = TypeVar("Result")
_END: Any = object()
_run_loop: Callable[..., object] = asyncio.run
with suppress(ImportError):  # uvloop has no wheel for some platforms
    import uvloop

    _run_loop = uvloop.run


class HttpConnection:
    """``AsyncHttpConnection`` for threads. A calling thread waits while an event loop in another thread makes the call.

    Thread-safe. All connections of a process share one event loop. A forked process starts its own event loop and opens
    its own connections.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._connect = partial(AsyncHttpConnection, address, timeout, credentials, options)
        self._begin_process()

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        connection = self._of_this_process()
        connection.closed = True
        if closing := _close(connection, self._process):
            closing.result()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """See ``GrpcConnection.call``."""
        return _result(self._of_this_process().call(method, request, timeout))

    def stream(self, method: Method[Response], requests: Iterable[Message], timeout: float | None) -> Iterator[Any]:
        """Yield each call's response or ClientError, in order. A separate thread reads the requests one by one."""
        raised: list[BaseException] = []
        responses = self._of_this_process().stream(method, _taken(requests, raised), timeout)
        try:
            while (response := _result(_awaited(anext(responses, _END)))) is not _END:
                yield response
            if raised:
                raise raised.pop()
        finally:
            _begin(_awaited(responses.aclose()))  # without waiting, because this may run in the loop's own thread

    def _of_this_process(self) -> AsyncHttpConnection:
        if self._process != os.getpid():
            _INHERITED.append(self._connection)
            self._begin_process(closed=self._connection.closed)
        return self._connection

    def _begin_process(self, *, closed: bool = False) -> None:
        self._connection, self._process = self._connect(), os.getpid()
        self._connection.closed = closed
        weakref.finalize(self, _close, self._connection, self._process).atexit = False


_INHERITED: list[AsyncHttpConnection] = []
"""The connections that a forked process inherits from its parent. They are never freed, because that would close
connections that the parent uses."""
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""The event loop of this process, and, after a fork, those of its parents. The keys are process ids."""
_STARTING: dict[int, threading.Lock] = {}
"""The locks under which processes start their event loop. The keys are process ids: a forked process does not use its
parent's lock, which another thread of the parent may hold during the fork."""


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process, which the first call starts in a thread."""
    if (loop := _LOOPS.get(os.getpid())) is not None:
        return loop
    with _STARTING.setdefault(os.getpid(), threading.Lock()):
        if os.getpid() not in _LOOPS:
            started: Future[asyncio.AbstractEventLoop] = Future()
            threading.Thread(target=_run_loop, args=(_run(started),), name="http", daemon=True).start()
            _LOOPS[os.getpid()] = started.result()
        return _LOOPS[os.getpid()]


async def _run(started: Future[asyncio.AbstractEventLoop]) -> None:
    started.set_result(asyncio.get_running_loop())
    await asyncio.Event().wait()  # the loop ends with the process


def _begin(coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


def _result(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Wait until the event loop has run a coroutine, and return its result."""
    future = _begin(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C, for example
        raise


def _close(connection: AsyncHttpConnection, process: int) -> Future[None] | None:
    """Begin to close the connections that ``process`` opened. A forked process does not close its parent's connections.
    Without an event loop, there are no connections."""
    return _begin(connection.close()) if process == os.getpid() and process in _LOOPS else None


async def _awaited(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


async def _taken(requests: Iterable[Message], raised: list[BaseException]) -> AsyncGenerator[Message, None]:
    """Yield the requests of an iterable that may block. A thread reads each request when the stream can send one
    more. If the iterable raises an exception, it is appended to ``raised``, and there are no more requests."""
    wanted: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()

    def take() -> None:
        iterator = iter(requests)
        while future := wanted.get():
            try:
                future.set_result(next(iterator, _END))
            except BaseException as error:  # an event loop would end with SystemExit
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
