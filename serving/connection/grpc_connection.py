"""Connections over gRPC, each with one channel: one class for threads, and one for the tasks of an event loop."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from operator import methodcaller
from typing import Any

import grpc
from google.protobuf.message import Message

from hangtag.serving import address as server_address
from hangtag.serving.connection import failures
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.errors import ClientError, ClosedError
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials

# gRPC ends a cancelled call by resetting its stream. If more than 20 streams are reset before a server has accepted
# them, hangtag's native transport assumes a rapid reset attack (CVE-2023-44487), and ends the connection with all its
# calls. So the client resets a call no earlier than _ACCEPTED_SECONDS after its beginning. By then, a working server
# has accepted it. If a server's limit on streams is reached, it accepts a call only when another call ends. So the
# client also waits _BETWEEN_RESETS seconds between two resets.
_ACCEPTED_SECONDS = 0.1
_BETWEEN_RESETS = 0.001
_END: Any = object()
_serialise = methodcaller("SerializeToString")


class _Channel:
    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._channel = credentials.channel(address, options.channel_arguments())
        self._closed = False
        self._process: int | None = None  # the process that made the first call

    def _close(self) -> None:
        """Refuse further calls, and cancel the calls in flight."""
        self._closed = True
        self._channel.close()

    def _unary(self, method: Method[Response]) -> "grpc.UnaryUnaryMultiCallable[Message, Response]":
        self._require_open()
        return self._channel.unary_unary(method.path, _serialise, method.response.FromString)

    def _begin_stream(
        self, method: Method[Response], requests: Iterable[Message], timeout: float | None
    ) -> tuple[grpc.Call, Iterator[Response]]:
        self._require_open()
        raised: list[BaseException] = []

        def outgoing() -> Iterator[Message]:
            try:
                yield from requests
            except GeneratorExit:  # gRPC reads no more requests
                raise
            except BaseException as error:  # otherwise, gRPC would cancel the stream, or wait for ever
                raised.append(error)

        start: grpc.StreamStreamMultiCallable[Message, Response] = self._channel.stream_stream(
            method.path, _serialise, method.response.FromString
        )
        call = start(outgoing(), timeout=timeout, metadata=self._credentials.metadata())

        def responses() -> Iterator[Response]:
            try:
                yield from call
            except grpc.RpcError as error:
                raise self._explained(error, method, timeout) from error
            if raised:
                raise raised.pop()

        return call, responses()

    def _explained(self, error: grpc.RpcError, method: Method[Any], timeout: float | None) -> ClientError:
        """Return the error of a failed call. Finding the cause may take seconds."""
        if self._closed:
            return ClosedError()
        return failures.of_grpc(error, self._address, timeout, method, self._credentials)

    def _require_open(self) -> None:
        if self._closed:  # gRPC would raise a ValueError
            raise ClosedError()
        self._process = self._process or os.getpid()
        self._require_process()

    def _require_process(self) -> None:
        # If a call was in flight during the fork, a call in the new process could hang or abort the process.
        if self._process != os.getpid():
            raise RuntimeError("this client belongs to another process; create one for each")


class GrpcConnection(_Channel):
    """One channel for threads. Thread-safe."""

    def close(self) -> None:
        self._close()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. Raises ClientError and CredentialsError."""
        seconds = self._timeout if timeout is None else timeout
        call = self._unary(method)
        try:
            response, ended = call.with_call(request, timeout=seconds, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise self._explained(error, method, seconds) from error
        keep_costs(response, ended.trailing_metadata())
        return response

    def stream(
        self, method: Method[Response], requests: Iterable[Message], timeout: float | None
    ) -> Iterator[Response]:
        """Yield a stream's responses, within a deadline for the whole stream. A thread reads the requests one by one.

        Raises ClientError and CredentialsError. If ``requests`` fails, the earlier answers are yielded first.
        """
        call, responses = self._begin_stream(method, requests, timeout)
        try:
            for response in responses:
                yield response
                self._require_process()
        finally:
            call.cancel()  # the caller may have stopped reading


class AioConnection(_Channel):
    """``GrpcConnection`` for asyncio. gRPC's own threads make the calls, and the tasks wait for them."""

    _last_reset = 0.0

    async def close(self) -> None:
        self._close()

    async def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """See ``GrpcConnection.call``."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def end(_call: object) -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(ended.set)

        began = loop.time()
        seconds = self._timeout if timeout is None else timeout
        call: Any = self._unary(method).future(request, timeout=seconds, metadata=self._credentials.metadata())
        call.add_done_callback(end)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self._reset(call, began)
            raise
        if call.code() is not grpc.StatusCode.OK:
            # ``_explained`` runs in a thread, because it may open other connections to find the cause.
            raise await asyncio.to_thread(self._explained, call, method, seconds) from call
        response: Response = call.result()
        keep_costs(response, call.trailing_metadata())
        return response

    async def stream(
        self, method: Method[Response], requests: AsyncIterable[Message], timeout: float | None
    ) -> AsyncGenerator[Response, None]:
        """See ``GrpcConnection.stream``. The event loop reads the requests, and a thread waits for each response."""
        loop = asyncio.get_running_loop()
        iterator = aiter(requests)
        reading: Future[Any] = Future()
        ended = False

        async def next_request() -> Any:
            return await anext(iterator, _END)

        def outgoing() -> Iterator[Message]:
            nonlocal reading
            while not ended:
                reading = asyncio.run_coroutine_threadsafe(next_request(), loop)
                if ended:
                    reading.cancel()
                try:
                    if (request := reading.result()) is _END:
                        return
                except CancelledError:
                    if ended:
                        return
                    raise
                yield request

        began = loop.time()
        call, responses = self._begin_stream(method, outgoing(), timeout)
        thread = ThreadPoolExecutor(1, "responses")
        try:
            while (response := await loop.run_in_executor(thread, next, responses, _END)) is not _END:
                yield response
        finally:  # the caller may have stopped reading
            ended = True
            reading.cancel()
            self._reset(call, began)
            thread.shutdown(wait=False)

    def _reset(self, call: grpc.Call, began: float) -> None:
        """Cancel a call once the server has accepted it. ``began`` is when the call began (event loop's clock)."""
        if call.is_active():
            self._last_reset = max(began + _ACCEPTED_SECONDS, self._last_reset + _BETWEEN_RESETS)
            asyncio.get_running_loop().call_at(self._last_reset, call.cancel)
