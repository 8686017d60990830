"""One gRPC channel for an event loop."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from hangtag.protos import methods
from hangtag.serving import address as server_address
from hangtag.serving.connection import errors
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.grpc_failures import explained
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials, channel_arguments

# grpc.aio raises INTERNAL with these words if it sends a request on a stream that has already ended, because the
# deadline passed while the event loop was busy, or because the other side ended the stream. grpc.aio then loses the
# stream's own status. If grpc.aio sends the end of the requests on a stream that has ended, it cancels the call.
_CORE_REFUSES = "Internal error from Core"


class AioConnection:
    """One channel to one server, for the tasks of one event loop. The channel opens at the first call.

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
            if self._closed and not being_cancelled():  # gRPC raises CancelledError for a closed channel too
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
        """Yield a stream's responses. See ``GrpcConnection.stream``. gRPC starts a task that reads the requests."""
        failures: list[BaseException] = []
        left = accepted = False

        async def outgoing() -> AsyncIterator[Message]:
            try:
                async for request in requests:
                    if left:
                        return
                    yield request
            # gRPC would log the exception and cancel the requests in flight.
            except (Exception, asyncio.CancelledError) as error:
                if being_cancelled():
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
            raise await self._explained(error, timeout, method) from error
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            raise (errors.closed() if self._closed else self._status_lost(ends, timeout)) from error
        finally:  # the caller may have stopped reading
            left = True
            if accepted:  # the server has accepted the stream
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
        # ``explained`` runs in a thread, because it may open other connections to find the cause.
        return await asyncio.to_thread(explained, error, self.address, timeout, method, self._credentials)


async def _end(call: "grpc.aio.Call") -> None:
    """Wait until a call ends. If the waiting task is cancelled, the call continues, unlike with ``await call``."""
    ended = asyncio.Event()
    call.add_done_callback(lambda _: ended.set())
    await ended.wait()


async def _first(responses: AsyncIterator[Response]) -> Response | None:
    """Return a stream's first response; None if the stream ends without a response.

    If the waiting task is cancelled, the call continues.
    """
    first = asyncio.ensure_future(anext(responses, None))
    # this callback reads the exception, because asyncio logs an exception that nobody reads
    first.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait((first,))
    return first.result()


PROBE_SECONDS = 0.25
"""The deadline of a probe in seconds. The probe may have to wait behind calls that gRPC has not sent yet. Within this
time, every server that still works accepts all earlier calls."""
MOST_RESETS = 10
"""After this many resets, the next reset waits for a probe, which shows that the server has accepted the streams. The
number is half of the limit in the native transport's library."""


class Resets:
    """Cancels the calls of one channel, and makes new calls wait until the server has accepted earlier calls.

    gRPC ends a cancelled call by resetting its stream. If many streams are reset before a server has accepted them, the
    server assumes a rapid reset attack (CVE-2023-44487), and ends the connection with every call on it. The HTTP/2
    library of hangtag's native transport ends the connection at the 21st such reset, and pygrpc-native 0.5 has no
    setting for this limit. Calls that are cancelled as soon as they begin can reach the limit, because the server may
    receive all of them in one read.

    A server accepts streams in the order in which they began. The answer to a short call, the probe, therefore shows
    that the server has accepted all streams that began before the probe. After ``MOST_RESETS`` resets a probe is sent.
    Until the probe is answered, about a millisecond later, no call is cancelled, and no call begins. A call that is
    cancelled before it begins is never sent. As long as no call is cancelled, no call waits, and no probe is sent.
    """

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        """Create the object without sending anything.

        Args:
            channel: A function that returns the channel of the calls. This class does not call the function after
                ``close``.
        """
        self._channel = channel
        self._resets = 0  # streams that were reset since the last probe
        self._waiting: list[grpc.aio.Call] = []
        self._probing = self._closed = False
        self._may_begin = asyncio.Event()
        self._may_begin.set()

    async def wait_to_begin(self, timeout: float | None) -> float | None:
        """Wait until a call may begin, and return how many seconds of the timeout are left; None for no deadline.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if self._may_begin.is_set():
            return timeout
        came = time.monotonic()
        async with asyncio.timeout(timeout):
            await self._may_begin.wait()
        return None if timeout is None else max(0.0, came + timeout - time.monotonic())

    def cancel(self, *calls: grpc.aio.Call) -> None:
        """Cancel the unfinished calls, either at once or after a probe."""
        unfinished = [call for call in calls if not call.done()]
        room = len(unfinished) if self._closed else MOST_RESETS - self._resets
        for call in unfinished[:room]:
            call.cancel()
            self._resets += 1
        self._waiting += unfinished[room:]
        if self._resets == MOST_RESETS and not (self._probing or self._closed):
            self._probing = True
            self._may_begin.clear()
            accepted, self._waiting = self._waiting, []  # the probe's answer shows that these calls were accepted
            # Any server answers a health check quickly, even if only with UNIMPLEMENTED. hangtag's server requires no
            # token for a health check.
            probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel().unary_unary(methods.CHECK)
            probe(b"", timeout=PROBE_SECONDS).add_done_callback(partial(self._on_answer, accepted))

    def close(self) -> None:
        """Let all waiting calls begin. Call this method before closing the channel."""
        self._closed = True
        self._may_begin.set()

    def _on_answer(self, accepted: Sequence[grpc.aio.Call], _probe: object) -> None:
        # If the probe failed, the calls can be cancelled too, because the connection has ended or the streams began at
        # least PROBE_SECONDS ago.
        for call in accepted:
            call.cancel()
        self._resets = 0
        self._probing = False
        waiting, self._waiting = self._waiting, []
        self.cancel(*waiting)
        if not self._probing:
            self._may_begin.set()


class OneLoop:
    """Binds a client to the event loop of its first call. The client may be created before that loop runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def require(self) -> None:
        """Raise RuntimeError if the running loop is not the loop of the first call."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif running is not self._loop:
            raise RuntimeError("this AsyncClient belongs to another event loop; create one for each event loop")


def being_cancelled() -> bool:
    """Return whether the running task itself is being cancelled.

    A CancelledError may also come from a call that the task awaits.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
