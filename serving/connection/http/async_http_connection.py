"""Connections over HTTP/1.1 for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpcore2

from hangtag.serving.connection import errors
from hangtag.serving.connection.aio_connection import OneLoop, being_cancelled
from hangtag.serving.connection.http.calls import IN_FLIGHT, OF_STREAM, Deadline, HttpCalls, Result
from hangtag.serving.connection.http.wire import HttpAnswer
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials


class AsyncHttpConnection:
    """Connections to one server, a connection for each call in flight, for the tasks of one event loop.

    See ``GrpcConnection`` for the methods, and ``HttpConnection`` for the exceptions of construction.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._timeout = timeout
        self._calls = HttpCalls(address, credentials, options)
        self._carrier = _TaskCarrier(self._calls)

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        await self._carrier.close()

    async def call(self, method: Method[Response], request: Message) -> Response:
        """Make one call and return its response. Raises ClientError and CredentialsError."""
        return await self._calls.call(self._carrier, method, request, Deadline.after(self._timeout))

    async def stream(
        self,
        method: Method[Response],
        requests: AsyncIterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """Yield an outcome for each request, in order, as ``HttpConnection.stream`` does."""
        deadline = Deadline.after(timeout)
        of_stream = OF_STREAM[method.path]

        def call(request: Message) -> Awaitable[Any]:
            return self._calls.call_of_stream(self._carrier, of_stream, request, deadline)

        async with aclosing(_in_order(call, requests)) as responses:
            while True:
                try:
                    async with self._carrier.in_time(deadline):
                        response = await anext(responses)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    late = errors.stream_too_late(self._calls.address, timeout)
                    raise (errors.closed() if self._carrier.closed else late) from error
                yield response


class _TaskCarrier:
    """A carrier that awaits in the event loop."""

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls
        self._pool = httpcore2.AsyncConnectionPool(**calls.pool_settings)
        self._one_loop = OneLoop()
        self._waiting: set[asyncio.Timeout] = set()
        self.closed = False

    async def exchange(self, request: httpcore2.Request, deadline: Deadline) -> HttpAnswer:
        async with self.in_time(deadline):
            response = await self._pool.handle_async_request(request)
            try:
                answer = self._calls.answer(response)
                async with aclosing(response.aiter_stream()) as pieces:
                    async for piece in pieces:
                        answer.add(piece)
                return answer.complete()
            finally:
                await response.aclose()

    async def pause(self, seconds: float, deadline: Deadline) -> None:
        if seconds:
            async with self.in_time(deadline):
                await asyncio.sleep(seconds)

    async def find_out(self, question: Callable[[], Result]) -> Result:
        return await asyncio.to_thread(question)

    async def close(self) -> None:
        """Cancel the calls that wait, and close the connections."""
        self.closed = True
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(0)
        await self._pool.aclose()

    @asynccontextmanager
    async def in_time(self, deadline: Deadline) -> AsyncIterator[None]:
        """Context in which waiting ends with TimeoutError when the deadline passes or the connection is closed."""
        if self.closed:
            raise errors.closed()
        self._one_loop.require()
        async with asyncio.timeout(deadline.remaining()) as timeout:
            self._waiting.add(timeout)
            try:
                yield
            finally:
                self._waiting.discard(timeout)


async def _in_order(
    call: Callable[[Message], Awaitable[Any]], requests: AsyncIterable[Message]
) -> AsyncGenerator[Any, None]:
    """Yield the results of the calls in the order of their requests. Takes a request when another call may begin.

    If iterating over the requests raises an exception, it is re-raised after the results of all earlier requests.
    """
    begun: asyncio.Queue[asyncio.Future[Any] | BaseException | None] = asyncio.Queue()
    free = asyncio.Semaphore(IN_FLIGHT)
    tasks: set[asyncio.Future[Any]] = set()

    async def begin_all() -> None:
        try:
            async for request in requests:
                await free.acquire()
                task = asyncio.ensure_future(call(request))
                tasks.add(task)
                begun.put_nowait(task)
        except (Exception, asyncio.CancelledError) as error:  # iterating over the requests may raise CancelledError too
            if being_cancelled():
                raise
            begun.put_nowait(error)
        else:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin_all())
    try:
        while True:
            task = await begun.get()
            if task is None:
                return
            if isinstance(task, BaseException):
                raise task
            result = await task
            tasks.discard(task)
            yield result
            free.release()
    finally:
        beginning.cancel()
        for unfinished in tasks:
            unfinished.cancel()
        await asyncio.gather(beginning, *tasks, return_exceptions=True)
