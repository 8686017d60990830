"""Two ways to make calls on one channel, behind one interface.

`QueueCalls` drives grpcio's completion queue itself: a thread takes the ends of calls off the queue, one after another,
without the futures, locks and callbacks that grpcio's public API builds for each call. It makes more calls a CPU second
than `.future()`, grpc.aio, or blocking calls on threads: `make bench-generators` says how many. The queue is not public
API, so each process tries it once, and takes `FutureCalls`, which does the same with `.future()`, where that fails.
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

# Told of every call's end: what `send` was given, when it ended, gRPC's status code (0 is OK) and its message.
OnEnd = Callable[[Any, float, int, str], None]
Metadata = tuple[tuple[str, str | bytes], ...] | None

# Channels with equal arguments would share one connection.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
CHECK_TIMEOUT = 5.0


class Calls(Protocol):
    """Calls on one channel, on serialised messages."""

    name: str

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """Start a call. `on_end`, which must not raise, is called with `token` on another thread."""

    def close(self) -> None:
        """Close the channel; calls under way are cancelled and end so."""


class FutureCalls:
    """grpcio's public API. It starts a thread whenever a channel wakes from having nothing in flight."""

    name = "grpcio's futures"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError."""
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Calls."""
        call = self._methods.get(method)
        if call is None:
            # Without serialisers gRPC takes and gives bytes.
            call = self._methods[method] = self._channel.unary_unary(method)
        future = call.future(request, timeout=timeout, metadata=metadata)
        future.add_done_callback(partial(self._ended, token, on_end))

    @staticmethod
    def _ended(token: Any, on_end: OnEnd, future: grpc.Call) -> None:
        ended = clock()
        code = future.code()
        on_end(token, ended, code.value[0], "" if code is grpc.StatusCode.OK else future.details() or "")

    def close(self) -> None:
        """See Calls."""
        self._channel.close()


class QueueCalls:
    """grpcio's completion queue, driven directly."""

    name = "grpcio's completion queue"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Raises CredentialsError, and anything at all where this version of grpcio is another one inside."""
        from grpc._cython import cygrpc  # type: ignore[attr-defined]

        self._channel = credentials.channel(address, CHANNEL_OPTIONS)
        self._queue = self._channel._channel  # type: ignore[attr-defined]
        self._operations = cygrpc
        # One entry a call under way: the queue must not be asked when nothing will come.
        self._due: SimpleQueue[bool] = SimpleQueue()
        self._open = True
        threading.Thread(target=self._take_ends, name="calls", daemon=True).start()

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Calls."""
        make = self._operations
        # Operations hold what they received: each call needs its own.
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
        self._due.put(True)

    def _take_ends(self) -> None:
        while self._due.get():
            event = self._queue.next_call_event()
            ended = clock()
            token, on_end = event.tag
            status = event.batch_operations[-1]
            code = status.code()
            on_end(token, ended, code, "" if code == 0 else _text(status.details()))

    def close(self) -> None:
        """See Calls."""
        if self._open:
            self._open = False
            self._channel.close()  # Returns once the thread has taken the end of every call.
            self._due.put(False)


def connect(address: str, credentials: Credentials, *, public_path: bool = False) -> Calls:
    """Calls to this server, with the connection open: no query pays for it. Takes the faster way where it works.

    A server that is not there shows later, in the status of the calls. Raises CredentialsError.
    """
    if not public_path:
        try:
            fast = QueueCalls(address, credentials)
            _check(fast, credentials)
        except (AttributeError, ImportError, TypeError, ValueError, LookupError, TimeoutError):
            pass  # Another grpcio inside: the public way is there for that.
        else:
            return fast
    public = FutureCalls(address, credentials)
    _check(public, credentials)
    return public


def _check(calls: Calls, credentials: Credentials) -> None:
    """One call to its end, whatever the server says to it. Raises TimeoutError when no end comes."""
    ended: SimpleQueue[int] = SimpleQueue()
    metadata = credentials.metadata() or None
    method = "/inference.GRPCInferenceService/ServerLive"
    calls.send(method, b"", CHECK_TIMEOUT, metadata, None, lambda *end: ended.put(end[2]))
    try:
        ended.get(timeout=2 * CHECK_TIMEOUT)
    except Exception as error:
        raise TimeoutError("a call did not end") from error


def _text(details: Any) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")
