"""Connections over HTTP/1.1 for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

import grpc
import httpx2
from grpc_health.v1 import health_pb2

from hangtag.serving.connection import errors
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http import failures
from hangtag.serving.connection.http.codec import routes
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest
from hangtag.serving.connection.http.ordered_tasks import ordered_tasks
from hangtag.serving.connection.http.session import LIMITS, HttpSession
from hangtag.serving.connection.http.streams import IN_FLIGHT, STREAMS
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.one_loop import OneLoop
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials


class AsyncHttpConnection:
    """Connections to one server, one for each call in flight, for the tasks of one event loop.

    See ``GrpcConnection`` for the methods, and ``HttpConnection`` for the exceptions of construction.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self.address = address
        self._timeout = timeout
        self._options = options
        self._session = HttpSession(address, credentials, options)
        through = None if self._session.proxy is None else httpx2.Proxy(self._session.proxy.url)
        transport = httpx2.AsyncHTTPTransport(verify=self._session.verify, limits=LIMITS, proxy=through)
        settings = self._session.client_settings()
        self._client = httpx2.AsyncClient(**settings, transport=transport, timeout=None)  # asyncio.timeout has it
        self._one_loop = OneLoop()
        self._closed = False

    async def close(self) -> None:
        """Close the connections; calls in flight fail."""
        self._closed = True
        await self._client.aclose()

    async def call(self, method: Method[Response], request: Message) -> Response:
        """Make one call and return its response. Raises ClientError and CredentialsError."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._call(method, request, self._timeout)
        except TimeoutError as error:
            raise errors.too_late(self.address, self._timeout) from error

    async def stream(
        self,
        method: Method[Response],
        requests: AsyncIterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> AsyncGenerator[Response, None]:
        """Yield the response to each request, in their order, as ``HttpConnection.stream`` does."""
        if self._closed:
            raise errors.closed()
        clock = asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + timeout

        def remaining() -> float | None:
            return None if deadline is None else max(0.0, deadline - clock())

        async def call(request: Message) -> Any:
            try:
                return stream.of_answer(await self._call(stream.method, request, remaining()))
            except ClientError as error:
                return stream.failure(error)

        if method.path == routes.WATCH:
            responses = self._watch(requests)
        else:
            stream = STREAMS[method.path]
            responses = ordered_tasks(call, requests, IN_FLIGHT)
        async with aclosing(responses):
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        response = await anext(responses)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise errors.stream_too_late(self.address, timeout) from error
                yield response

    async def _watch(self, requests: AsyncIterable[Message]) -> AsyncGenerator[Any, None]:
        request = await anext(aiter(requests))
        check = Method(routes.CHECK, health_pb2.HealthCheckResponse)
        for pause in self._options.polling_pauses():
            try:
                yield await self._call(check, request, None)
            except ClientError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(pause)

    async def _call(self, method: Method[Response], message: Message, seconds: float | None) -> Response:
        request = self._session.encode(method, message, seconds)
        pauses = self._options.retry_pauses(method)
        for pause in (*pauses, None):
            try:
                answer = await self._answer(request)
                return self._session.decode(method, message, request, answer)
            except ClientError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE or pause is None:
                    raise
            except failures.BROKEN as error:
                if pause is None:
                    # In a thread, because it may make other connections to find the cause.
                    raise await asyncio.to_thread(self._session.broken, error, method) from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _answer(self, request: HttpRequest) -> HttpAnswer:
        """Make one attempt. Raises ClientError; BROKEN where no answer comes."""
        if self._closed:
            raise errors.closed()
        self._one_loop.require()
        chunks, size = [], 0
        headers = self._session.headers(request)
        try:
            async with self._client.stream(
                request.verb, request.path, content=request.body, headers=headers
            ) as response:
                self._session.require_size(int(response.headers.get("content-length", 0)))
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._session.require_size(size)
                return HttpAnswer(response.status_code, response.headers, b"".join(chunks))
        except (*failures.BROKEN, RuntimeError) as error:
            if self._closed:  # httpx2 raises a RuntimeError then
                raise errors.closed() from error
            raise
