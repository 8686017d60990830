"""One gRPC channel for an event loop."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from hangtag.serving import address as server_address
from hangtag.serving.connection import errors
from hangtag.serving.connection.costs import keep_costs
from hangtag.serving.connection.grpc_failures import explained
from hangtag.serving.connection.method import Message, Method
from hangtag.serving.connection.one_loop import OneLoop
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.connection.resets import Resets
from hangtag.serving.credentials import Credentials, channel_arguments

Response = TypeVar("Response", bound=Message)

# grpc.aio's words, with the status INTERNAL, where it comes to send a request of a stream that has ended: by its
# deadline, while the event loop was busy, or by the other side. The stream's own status is lost then. Where it comes to
# send the end of the requests instead, it cancels the call.
_CORE_REFUSES = "Internal error from Core"


class AioConnection:
    """One channel to one server, for the tasks of one event loop. Its channel opens at the first call.

    The arguments and exceptions of construction are those of ``GrpcConnection``.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        self.address = address
        self._timeout = timeout
        self._credentials = credentials
        self._arguments = [*channel_arguments(address), *options.channel_arguments()]
        self._tls = credentials.channel_credentials()
        self._channel: grpc.aio.Channel | None = None
        self._resets = Resets(self._open_channel)
        self._one_loop = OneLoop()
        self._closed = False

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._closed = True
        self._resets.close()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None  # gRPC ends the connection when the channel is freed

    async def call(self, method: Method[Response], request: Message) -> Response:
        """Make one call and return its response. Raises ClientError and CredentialsError."""
        try:
            remaining = await self._resets.wait_to_begin(self._timeout)
        except TimeoutError as error:
            raise errors.too_late(self.address, self._timeout) from error
        call: grpc.aio.UnaryUnaryMultiCallable[Message, Response] = self._open_channel().unary_unary(
            method.path, method.serialise, method.response.FromString
        )
        begun = call(request, timeout=remaining, metadata=self._credentials.metadata())
        try:
            await _end(begun)
            response: Response = await begun
            metadata = await begun.trailing_metadata()
        except grpc.RpcError as error:
            raise await self._explained(error, self._timeout, method) from error
        except asyncio.CancelledError:
            if self._closed and not _cancelled():  # gRPC raises the same for a closed channel
                raise errors.closed() from None
            self._resets.cancel(begun)
            raise
        keep_costs(response, metadata)
        return response

    async def stream(
        self,
        method: Method[Response],
        requests: AsyncIterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> AsyncGenerator[Response, None]:
        """Yield a stream's responses, as ``GrpcConnection.stream`` does; a task of gRPC's takes the requests."""
        failures: list[BaseException] = []
        left = accepted = False

        async def outgoing() -> AsyncIterator[Message]:
            try:
                async for request in requests:
                    if left:
                        return
                    yield request
            except (Exception, asyncio.CancelledError) as error:  # gRPC would log it and cancel the requests in flight
                if _cancelled():
                    raise
                failures.append(error)

        ends = time.monotonic() + (math.inf if timeout is None else timeout)
        try:
            remaining = await self._resets.wait_to_begin(timeout)
        except TimeoutError as error:
            raise errors.stream_too_late(self.address, timeout) from error
        start: grpc.aio.StreamStreamMultiCallable[Message, Response] = self._open_channel().stream_stream(
            method.path, method.serialise, method.response.FromString
        )
        metadata = self._credentials.metadata()
        call = start(outgoing(), timeout=remaining, metadata=metadata, wait_for_ready=wait_for_ready)
        responses = aiter(call)
        try:
            first = await _first(responses)
            if first is not None:
                accepted = True
                yield first
                async for response in responses:
                    yield response
        except grpc.RpcError as error:
            if error.details() == _CORE_REFUSES:
                raise self._status_lost(ends, timeout) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise errors.stream_too_late(self.address, timeout) from error
            raise await self._explained(error, timeout, method) from error
        except asyncio.CancelledError as error:
            if _cancelled():
                raise
            raise (errors.closed() if self._closed else self._status_lost(ends, timeout)) from error
        finally:  # the caller may have stopped reading
            left = True
            if accepted:  # by the server
                call.cancel()
            else:
                self._resets.cancel(call)
        if failures:
            raise failures[0]

    def _open_channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise errors.closed()
        self._one_loop.require()
        if self._channel is None:
            self._channel = self._new_channel()
        return self._channel

    def _new_channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self.address, self._arguments)
        return grpc.aio.secure_channel(self.address, self._tls, self._arguments)

    def _status_lost(self, ends: float, timeout: float | None) -> errors.ClientError:
        """The error of a stream that ended without a status, perhaps at its deadline ``ends``."""
        if time.monotonic() >= ends:
            return errors.stream_too_late(self.address, timeout)
        return errors.status_lost(self.address)

    async def _explained(self, error: grpc.RpcError, timeout: float | None, method: Method[Any]) -> errors.ClientError:
        # In a thread, because it may make other connections to find the cause.
        return await asyncio.to_thread(explained, error, self.address, timeout, method, self._credentials)


async def _end(call: "grpc.aio.Call") -> None:
    """Wait for a call's end. Where the task that waits is cancelled, the call goes on, which ``await call`` ends."""
    ended = asyncio.Event()
    call.add_done_callback(lambda _: ended.set())
    await ended.wait()


async def _first(responses: AsyncIterator[Response]) -> Response | None:
    """Wait for a stream's first response; None where there is none. A task that is cancelled leaves the call alone."""
    first = asyncio.ensure_future(anext(responses, None))
    first.add_done_callback(lambda task: task.cancelled() or task.exception())  # asyncio logs one that nobody has read
    await asyncio.wait((first,))
    return first.result()


def _cancelled() -> bool:
    """Whether the task that runs is being cancelled, so that a CancelledError in it is not gRPC's."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
