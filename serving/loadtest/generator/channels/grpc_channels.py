"""Makes asynchronous gRPC calls on one channel, in one of two ways.

`CompletionQueueChannel` drives grpcio's completion queue directly: one thread takes completed calls off the queue,
without the futures, locks and callbacks that grpcio's public API creates for each call. It makes more calls per CPU
second than `.future()`, grpc.aio, or blocking calls on threads (`python -m studies loadtest generators`). The queue
is private to grpcio, so `connect` makes one call on it, and falls back to `FutureChannel`, on the public `.future()`,
where that call fails.
"""

import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import Any

import grpc

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels.channel import Metadata, OnEnd, clock

# gRPC lets channels with equal arguments share one connection, unless each has a subchannel pool of its own.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class FutureChannel:
    """Calls through grpcio's public API, which starts a thread whenever a channel had nothing in flight before."""

    name = "grpcio's futures"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError."""
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Channel."""
        sent = clock()
        call = self._methods.get(method)
        if call is None:
            # Without serialisers gRPC takes and returns bytes.
            call = self._methods[method] = self._channel.unary_unary(method)
        future = call.future(request, timeout=timeout, metadata=metadata)
        future.add_done_callback(partial(self._on_done, token, sent, on_end))

    @staticmethod
    def _on_done(token: Any, sent: float, on_end: OnEnd, future: grpc.Call) -> None:
        ended = clock()
        code = future.code()
        on_end(token, sent, ended, code.value[0], "" if code is grpc.StatusCode.OK else future.details() or "")

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
        sent = clock()
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
            ((operations, (token, sent, on_end)),),
            None,
            None,
        )
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
        if self._open:
            self._open = False
            self._channel.close()  # Returns once the thread has taken the event of every call.
            self._in_flight.put(False)


def _text(details: Any) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")
