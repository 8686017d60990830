"""Makes asynchronous gRPC calls on one channel, in one of two ways behind one interface.

`CompletionQueueChannel` drives grpcio's completion queue directly: one thread takes completed calls off the queue,
without the futures, locks and callbacks that grpcio's public API creates for each call. It makes more calls per CPU
second than `.future()`, grpc.aio, or blocking calls on threads (`python -m studies loadtest generators`). The queue
is private to grpcio, so `connect` makes one call on it, and falls back to `FutureChannel`, on the public `.future()`,
where that call fails.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import grpc

from hangtag.serving.credentials import Credentials

clock = time.perf_counter

# Called when a call has ended, with: the token passed to `send`, the time on `clock`, gRPC's status code (0 is OK), and
# the status message.
OnEnd = Callable[[Any, float, int, str], None]
Metadata = tuple[tuple[str, str | bytes], ...] | None

# gRPC lets channels with equal arguments share one connection, unless each has a subchannel pool of its own.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
CHECK_TIMEOUT = 5.0  # Seconds.


class Channel(Protocol):
    """One channel to one server, for calls on serialised messages."""

    name: str

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """Start a call.

        Args:
            method: The full gRPC method name, for example /inference.GRPCInferenceService/ModelInfer.
            request: The serialised request message.
            timeout: The call's deadline in seconds from now.
            metadata: gRPC metadata of the call.
            token: Passed to `on_end`, to identify the call.
            on_end: Called once, on another thread, when the call has ended. It must not raise.
        """

    def close(self) -> None:
        """Close the channel. Calls in flight are cancelled, and `on_end` is called for each."""


class FutureChannel:
    """Calls through grpcio's public API, which starts a thread whenever a channel had nothing in flight before."""

    name = "grpcio's futures"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError."""
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Channel."""
        call = self._methods.get(method)
        if call is None:
            # Without serialisers gRPC takes and returns bytes.
            call = self._methods[method] = self._channel.unary_unary(method)
        future = call.future(request, timeout=timeout, metadata=metadata)
        future.add_done_callback(partial(self._on_done, token, on_end))

    @staticmethod
    def _on_done(token: Any, on_end: OnEnd, future: grpc.Call) -> None:
        ended = clock()
        code = future.code()
        on_end(token, ended, code.value[0], "" if code is grpc.StatusCode.OK else future.details() or "")

    def close(self) -> None:
        """See Channel."""
        self._channel.close()


class CompletionQueueChannel:
    """Calls through grpcio's private completion queue."""

    name = "grpcio's completion queue"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError, and any other exception where this grpcio version has different internals."""
        from grpc._cython import cygrpc  # type: ignore[attr-defined]

        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._queue = self._channel._channel  # type: ignore[attr-defined]
        self._operations = cygrpc
        # One entry per call in flight: `next_call_event` must not be called when no event will come.
        self._in_flight: SimpleQueue[bool] = SimpleQueue()
        self._open = True
        threading.Thread(target=self._take_events, name="calls", daemon=True).start()

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Channel."""
        make = self._operations
        # Operations hold what they received, so each call needs new ones.
        operations = (
            make.SendInitialMetadataOperation(metadata, 0),
            make.SendMessageOperation(request, 0),
            make.SendCloseFromClientOperation(0),
            make.ReceiveInitialMetadataOperation(0),
            make.ReceiveMessageOperation(0),
            make.ReceiveStatusOnClientOperation(0),
        )
        self._queue.integrated_call(
            0,
            method.encode(),
            None,
            time.time() + timeout,
            None,
            None,
            ((operations, (token, on_end)),),
            None,
            None,
        )
        self._in_flight.put(True)

    def _take_events(self) -> None:
        while self._in_flight.get():
            event = self._queue.next_call_event()
            ended = clock()
            token, on_end = event.tag
            status = event.batch_operations[-1]
            code = status.code()
            on_end(token, ended, code, "" if code == 0 else _text(status.details()))

    def close(self) -> None:
        """See Channel."""
        if self._open:
            self._open = False
            self._channel.close()  # Returns once the thread has taken the event of every call.
            self._in_flight.put(False)


def connect(address: str, credentials: Credentials, *, public_api: bool = False) -> Channel:
    """Open a channel and make one call, so that no measured query pays for the connection.

    An unreachable server raises nothing here: its calls will end with the status UNAVAILABLE.

    Args:
        address: HOST:PORT, or a unix: address.
        credentials: TLS files and token.
        public_api: Use `FutureChannel` even where the completion queue works.

    Raises:
        CredentialsError: When the credentials' files cannot be read.
        TimeoutError: When the first call does not end.
    """
    if not public_api:
        try:
            fast = CompletionQueueChannel(address, credentials)
            _check(fast, credentials)
        except (AttributeError, ImportError, TypeError, ValueError, LookupError, TimeoutError):
            pass  # This grpcio version has different internals.
        else:
            return fast
    public = FutureChannel(address, credentials)
    _check(public, credentials)
    return public


def _check(channel: Channel, credentials: Credentials) -> None:
    """Make one call and wait for its end, whatever its status. Raises TimeoutError when it does not end."""
    codes: SimpleQueue[int] = SimpleQueue()
    metadata = credentials.metadata() or None
    method = "/inference.GRPCInferenceService/ServerLive"
    channel.send(method, b"", CHECK_TIMEOUT, metadata, None, lambda *end: codes.put(end[2]))
    try:
        codes.get(timeout=2 * CHECK_TIMEOUT)
    except Exception as error:
        raise TimeoutError("a call did not end") from error


def _text(details: Any) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")
