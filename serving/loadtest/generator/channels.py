"""Defines the interface of the generator's channels, and implements the channel over gRPC.

`CompletionQueueChannel` uses grpcio's completion queue directly. One thread takes completed calls off the queue,
without the futures, locks and callbacks that grpcio's public API creates for each call. This channel makes more calls
per second of CPU time than `.future()`, grpc.aio, or blocking calls on threads (studies/finished/loadtest.md). The
queue is a private part of grpcio, but exists in all grpcio versions with which hangtag can be installed.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hangtag.protos import methods
from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials

clock = time.perf_counter

# A function that is called when a call has ended. The function's arguments are the token passed to `send`, the times on
# `clock` at which the call was sent and ended, gRPC's status code (0 is OK), and the status message.
OnEnd = Callable[[Any, float, float, int, str], None]
Metadata = tuple[tuple[str, str | bytes], ...] | None
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Channel(Protocol):
    """A channel to one server, for calls with serialised requests."""

    name: str

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """Start a call.

        Args:
            method: The full gRPC method name. HTTP ignores this argument, because the request's text has the path.
            request: The serialised message; for HTTP, the whole text of the request.
            timeout: The call's deadline in seconds from now.
            metadata: The call's gRPC metadata; for HTTP, additional headers.
            token: An object that identifies the call, and that `on_end` receives.
            on_end: A function that is called once, on another thread, when the call has ended. It must not raise.
        """

    def close(self) -> None:
        """Close the channel. Calls in flight are cancelled, and `on_end` is called for each of these calls."""


# Channels with equal arguments share one connection, unless each channel has its own subchannel pool.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class CompletionQueueChannel:
    """Makes calls through grpcio's private completion queue."""

    name = "grpcio's completion queue"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError."""
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._queue: Any = self._channel._channel  # type: ignore[attr-defined]
        # This queue has one entry per call in flight, because `next_call_event` must not be called without a call in
        # flight.
        self._in_flight: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._take_events, name="calls", daemon=True).start()

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Channel."""
        sent = clock()
        # An operation object stores what it received, so each call needs new operation objects.
        operations = (
            cygrpc.SendInitialMetadataOperation(metadata, 0),
            cygrpc.SendMessageOperation(request, 0),
            cygrpc.SendCloseFromClientOperation(0),
            cygrpc.ReceiveInitialMetadataOperation(0),
            cygrpc.ReceiveMessageOperation(0),
            cygrpc.ReceiveStatusOnClientOperation(0),
        )
        batches = ((operations, (token, sent, on_end)),)
        self._queue.integrated_call(0, method.encode(), None, time.time() + timeout, None, None, batches, None, None)
        self._in_flight.put(True)

    def _take_events(self) -> None:
        while self._in_flight.get():
            event = self._queue.next_call_event()
            ended = clock()
            token, sent, on_end = event.tag
            status = event.batch_operations[-1]
            code = status.code()
            on_end(token, sent, ended, code, "" if code == 0 else _text(status.details()))

    def close(self) -> None:
        """See Channel."""
        self._channel.close()  # returns when the thread has taken every call's event
        self._in_flight.put(False)


def _text(details: Any) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")


CHECK_TIMEOUT = 5.0  # Seconds.


def connect(address: str, credentials: Credentials) -> Channel:
    """Open a channel over gRPC, or over HTTP for a URL, and make one call, so that no measured query includes the time
    to connect.

    If the server is unreachable, this function raises nothing, and later calls end with the status UNAVAILABLE.

    Raises:
        CredentialsError: The credentials' files cannot be read.
    """
    channel: Channel
    metadata = credentials.metadata() or None
    if server_address.is_http(address):
        # Imported here, because http_channel imports this module.
        from hangtag.serving.loadtest.generator.http_channel import LIVE, HttpChannel, as_text

        channel, request = HttpChannel(address, credentials), as_text(address, LIVE)
    else:
        channel, request = CompletionQueueChannel(address, credentials), b""
    ended: SimpleQueue[None] = SimpleQueue()
    channel.send(methods.SERVER_LIVE, request, CHECK_TIMEOUT, metadata, None, lambda *_: ended.put(None))
    ended.get(timeout=2 * CHECK_TIMEOUT)
    return channel
