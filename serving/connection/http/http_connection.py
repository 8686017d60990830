"""Connections over HTTP/1.1 for threads."""

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from hangtag.serving.connection import errors
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

    Thread-safe. The event loop starts at the first call, and ends after ``close`` or when this object is freed. A
    forked process starts its own event loop and opens its own connections. The arguments and exceptions of construction
    are those of ``AsyncHttpConnection``.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._connect = partial(AsyncHttpConnection, address, timeout, credentials, options)
        self._calls = _Calls(self._connect())

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self._of_this_process().close()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. ``timeout`` in seconds replaces the connection's timeout.

        Raises ClientError and CredentialsError.
        """
        calls = self._of_this_process()
        return calls.result(calls.connection.call(method, request, timeout))

    def stream(
        self,
        method: Method[Response],
        requests: Iterable[Message],
        timeout: float | None,
    ) -> Iterator[Any]:
        """Yield each call's response or ClientError, in order. A separate thread reads the requests one by one."""
        calls = self._of_this_process()
        responses = calls.connection.stream(method, _taken(requests), timeout)
        try:
            while (response := calls.result(_next(responses))) is not _END:
                yield response
        finally:
            with suppress(errors.ClosedError):
                calls.begin(_end(responses))  # without waiting, because this may run in the loop's own thread

    def _of_this_process(self) -> "_Calls":
        calls = self._calls
        if calls.process != os.getpid():
            _INHERITED.append(calls)
            self._calls = _Calls(self._connect())
            if calls.closed:
                self._calls.close()
        return self._calls


class _Calls:
    """A connection whose calls run in an event loop. The loop's thread starts at the first call."""

    def __init__(self, connection: AsyncHttpConnection) -> None:
        self.connection = connection
        self.process = os.getpid()
        self.closed = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begin to run a coroutine in the loop. Raises ClosedError."""
        with self._lock:  # the loop ends after ``close``, and cancels every coroutine that began before
            if self.closed:
                coroutine.close()
                raise errors.closed()
            if self._loop is None:
                self._loop = self._started()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def result(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait until the loop has run a coroutine, and return its result. Raises ClosedError."""
        future = self.begin(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise errors.closed() from None
        except BaseException:
            future.cancel()  # Ctrl-C, for example
            raise

    def close(self) -> None:
        """Accept no more calls, and wait until the calls in flight and the connections have ended."""
        with self._lock:
            self.closed = True
        if self._loop is not None:
            self._stop()
            self._thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        calling = _call_until_stopped(self.connection, started)
        self._thread = threading.Thread(target=_run_loop, args=(calling,), name="http", daemon=True)
        self._thread.start()
        loop, stopping = started.result()
        self._stop = weakref.finalize(self, _stop, self._thread, loop, stopping)
        return loop


_INHERITED: list[_Calls] = []
"""The ``_Calls`` objects that a forked process inherits from its parent. They are never freed, because that would close
connections that the parent uses."""


async def _call_until_stopped(
    connection: AsyncHttpConnection, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    stopping = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stopping))
    await stopping.wait()
    await connection.close()


def _stop(thread: threading.Thread, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if thread.is_alive():  # a forked process does not have its parent's thread
        loop.call_soon_threadsafe(stopping.set)


async def _next(responses: AsyncGenerator[Any, None]) -> Any:
    return await anext(responses, _END)


async def _end(responses: AsyncGenerator[Any, None]) -> None:
    await responses.aclose()


async def _taken(requests: Iterable[Message]) -> AsyncIterator[Message]:
    """Yield the requests of an iterable that may block. A thread reads each request when the stream can send one
    more."""
    wanted: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()

    def take() -> None:
        iterator = iter(requests)
        while future := wanted.get():
            try:
                future.set_result(next(iterator, _END))
            except Exception as error:
                future.set_exception(error)

    threading.Thread(target=take, name="requests", daemon=True).start()
    try:
        while True:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()  # so that the thread can always set the result
            wanted.put(future)
            if (request := await asyncio.wrap_future(future)) is _END:
                return
            yield request
    finally:
        wanted.put(None)
