"""Does the hot path work with this grpcio? Asked at every start, with a real server and a real channel on loopback.

Each of the things that the hot path wants of grpcio's private parts is made to happen once: a call is answered with its
metadata both ways, a deadline arrives, a call is refused, a cancellation is noticed, an ordinary method is passed on to
grpcio, and the end comes when it is asked for.
"""

import queue
import time
from concurrent import futures
from typing import Any

import grpc

from hangtag.serving.server.errors import InvalidRequestError, ServerError
from hangtag.serving.server.transport.hot.completion_queue import SharedServer, UnaryCall
from hangtag.serving.server.transport.hot.path import HotPath

_TIMEOUT = 5.0
_METHOD = "/hangtag.SelfTest/Hot"
_ORDINARY = "Ordinary"


class _Echo:
    """Answers "echo", refuses "refuse", and leaves everything else unanswered."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[UnaryCall] = queue.SimpleQueue()
        self.cancelled: queue.SimpleQueue[None] = queue.SimpleQueue()

    def admit(self, call: UnaryCall) -> None:
        self.calls.put(call)

    def handle(self, call: UnaryCall, message: bytes | None, *, wake: bool) -> None:
        match message:
            case b"echo":
                call.answer(message, (("answered", "yes"),))
            case b"refuse":
                raise InvalidRequestError("refused")
            case _:
                call.watch(lambda: self.cancelled.put(None))


def run() -> None:
    """Raises what went wrong."""
    with futures.ThreadPoolExecutor(1) as pool:
        server = SharedServer(pool, interceptors=[], options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=None)
        ordinary: Any = grpc.unary_unary_rpc_method_handler(lambda message, _: message)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("hangtag.SelfTest", {_ORDINARY: ordinary}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        echo = _Echo()
        path = HotPath(server, _METHOD, echo, threads=2)
        path.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                _check(channel, echo)
        finally:
            stopped = server.stop(0).wait(_TIMEOUT)
            path.close()
        _expect(stopped, "the server stops")


def _check(channel: grpc.Channel, echo: _Echo) -> None:
    hot: Any = channel.unary_unary(_METHOD)
    answer, call = hot.with_call(b"echo", timeout=_TIMEOUT, metadata=(("asked", "me"),))
    _expect(answer == b"echo", "a call is answered")
    _expect(("answered", "yes") in [(key, value) for key, value in call.trailing_metadata()], "trailing metadata")
    seen = echo.calls.get(timeout=_TIMEOUT)
    _expect(("asked", "me") in [(key, value) for key, value in seen.metadata], "a call's metadata")
    _expect(
        seen.deadline is not None and abs(seen.deadline - time.monotonic() - _TIMEOUT) < _TIMEOUT, "a call's deadline"
    )
    hot(b"echo")
    _expect(echo.calls.get(timeout=_TIMEOUT).deadline is None, "a call without a deadline")
    try:
        hot(b"refuse", timeout=_TIMEOUT)
    except grpc.RpcError as error:
        _expect(error.code() is grpc.StatusCode.INVALID_ARGUMENT and error.details() == "refused", "a refusal")
    else:
        raise ServerError("a refused call was answered")
    echo.calls.get(timeout=_TIMEOUT)
    waiting = hot.future(b"wait", timeout=_TIMEOUT)
    echo.calls.get(timeout=_TIMEOUT)
    waiting.cancel()
    echo.cancelled.get(timeout=_TIMEOUT)
    ordinary: Any = channel.unary_unary(f"/hangtag.SelfTest/{_ORDINARY}")
    _expect(ordinary(b"ordinary", timeout=_TIMEOUT) == b"ordinary", "an ordinary method beside it")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ServerError(f"not as expected: {what}")
