"""Defines the requests and the interface of the generator's channels, and implements the channel over gRPC.

`CompletionQueueChannel` uses grpcio's completion queue directly. One thread takes completed calls off the queue,
without the futures, locks and callbacks that grpcio's public API creates for each call. This channel makes more calls
per second of CPU time than `.future()`, grpc.aio, or blocking calls on threads (studies/finished/loadtest.md). The
queue is a private part of grpcio, but exists in all grpcio versions with which hangtag can be installed.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hangtag.protos import methods
from hangtag.serving.credentials import Credentials

clock = time.perf_counter
INFER, CLASSIFY = methods.MODEL_INFER, methods.CLASSIFY

# A function that is called when a call has ended. The function's arguments are the token passed to `send`, the times on
# `clock` at which the call was sent and ended, gRPC's status code (0 is OK), and the status message.
OnEnd = Callable[[Any, float, float, int, str], None]
Metadata = tuple[tuple[str, str | bytes], ...] | None
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True)
class RequestPool:
    """The serialised requests for one target, which are sent in rotation. `method` is the full gRPC method name."""

    address: str
    method: str
    requests: tuple[bytes, ...]


class Channel(Protocol):
    """A channel to one server, for calls with serialised requests."""

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """Start a call with a deadline in seconds from now.

        Over HTTP, `request` is the whole HTTP request with its path, so `method` is ignored, and `metadata` contains
        additional headers. `on_end` is called once, on another thread, and must not raise.
        """

    def close(self) -> None:
        """Close the channel. Calls in flight are cancelled, and `on_end` is called for each of these calls."""


# Channels with equal arguments share one connection, unless each channel has its own subchannel pool.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class CompletionQueueChannel:
    """Makes calls through grpcio's private completion queue."""

    name = "grpcio's completion queue"

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._queue: Any = self._channel._channel  # type: ignore[attr-defined]
        # This queue has one entry per call in flight, because `next_call_event` must not be called without a call in
        # flight.
        self._in_flight: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._take_events, name="calls", daemon=True).start()

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
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
            on_end(token, sent, ended, code, "" if code == 0 else status.details())

    def close(self) -> None:
        self._channel.close()  # returns when the thread has taken every call's event
        self._in_flight.put(False)
