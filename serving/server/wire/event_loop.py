"""The process's event loop, which all gRPC and HTTP servers share, and the calls that are awaited on this loop.

The loop runs in its own thread, from the first server to the end of the process. There is only one, because grpc.aio
takes its events from one queue for the whole process. The loop is uvloop's if uvloop is installed.

With grpcio 1.76, if a program also calls grpc.aio on another loop, both loops wake up for each event, and the slower
loop reports a BlockingIOError. No event is lost, so this loop does not log the error.
"""

import asyncio
import contextlib
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from threading import get_ident
from typing import Any, TypeVar

import structlog

from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.log import redirect_library_log
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.transport_call import Query, TransportCall, submit_on_thread

Result = TypeVar("Result")

log = structlog.get_logger()

_SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter lock while another waits for it. With Python's default interval of 5 ms,
the event loop and the computation delayed each other, and 64 HTTP connections got 20 % fewer answers per second."""

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_run_loop: Callable[..., object] = asyncio.run
with contextlib.suppress(ImportError):  # uvloop has no wheel for some platforms
    import uvloop

    _run_loop = uvloop.run


def event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop, which the first call starts."""
    global _loop
    with _starting:
        if _loop is None:
            sys.setswitchinterval(_SWITCH_SECONDS)
            started: Future[asyncio.AbstractEventLoop] = Future()
            threading.Thread(target=_run_loop, args=(_run_for_ever(started),), name="grpc", daemon=True).start()
            _loop = started.result()
    return _loop


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the loop, and return its result. Never call this function on the loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop()).result()


async def _run_for_ever(started: "Future[asyncio.AbstractEventLoop]") -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_error)
    redirect_library_log("grpc", with_values=False)  # grpc logs each metadata value that is not UTF-8
    started.set_result(loop)
    await loop.create_future()


def _log_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, BlockingIOError):  # a harmless error, see the module's docstring
        log.error("unexpected error in the event loop", reason=context.get("message"), exc_info=error)


class LoopCall(TransportCall):
    """A call whose outcome is passed to the event loop, from the thread that computed or dropped the call."""

    outcome: Any = None
    """The response or the error with which the call ended."""
    timings: Timings

    def __init__(self, calls: "LoopCalls", origin: Origin) -> None:
        self.intake, self.calls = calls.intake, calls
        self.method, self.metadata, self.deadline = origin
        self.started = time.perf_counter_ns()

    def respond(self, response: Any, timings: Timings) -> None:
        self.outcome, self.timings = response, timings
        self.calls.hand_over(self)

    def refuse(self, error: Exception) -> None:
        # A traceback keeps the call in memory, so only an unexpected error keeps its traceback, for the log.
        self.outcome = error.with_traceback(None) if isinstance(error, ServerError) else error
        self.calls.hand_over(self)

    def response(self) -> Any:
        """Return the response. Raises the error with which the call ended. Call this method only once."""
        outcome, self.outcome = self.outcome, None
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # the error's traceback refers to this frame, and a cycle would keep the request in memory

    @abstractmethod
    def resolve(self) -> None:
        """Pass the outcome to the caller. This method runs on the event loop, and must not raise an error."""


class AwaitedCall(LoopCall):
    """A call that a coroutine submits and awaits."""

    def __init__(self, calls: "LoopCalls", origin: Origin) -> None:
        super().__init__(calls, origin)
        self.ended: asyncio.Future[None] = calls.loop.create_future()
        """Done when the call has ended, with a response or an error."""

    def resolve(self) -> None:
        if not self.ended.done():  # the future is done if the caller has left
            self.ended.set_result(None)


class LoopCalls:
    """Submits calls from coroutines on the event loop."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.loop = event_loop()
        self._loop_thread = 0
        self._ended: deque[LoopCall] = deque()
        self._scheduled = False
        self._wakes = False
        self._pool = intake.engine.pool
        self.loop.call_soon_threadsafe(self._pool.gather_offers, self._wake_later)

    def hand_over(self, call: LoopCall) -> None:
        """Pass an ended call to the loop, which wakes up only once for all calls that end before its next iteration."""
        self._ended.append(call)
        if get_ident() == self._loop_thread:
            self._resolve()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._loop_thread = get_ident()
        self._scheduled = False  # reset first, so that a call that ends after this line schedules this method
        while self._ended:
            self._ended.popleft().resolve()

    def _wake_later(self) -> None:
        """Wake the computing threads after the loop has queued all calls that it received in this iteration."""
        if not self._wakes:
            self._wakes = True
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        self._pool.wake()

    async def outcomes(self, origin: Origin, queries: Sequence[Query]) -> list[AwaitedCall]:
        """Submit the queries of one request on a thread, and return their calls when all have ended."""
        calls = [AwaitedCall(self, origin) for _ in queries]
        for call, query in zip(calls, queries, strict=True):
            call.model_name, call.model_version = query.model_name, query.model_version
        submit_on_thread(calls, queries)
        await self.wait(calls)
        return calls

    async def wait(self, calls: Sequence[AwaitedCall]) -> None:
        """Wait until all submitted calls have ended. Cancelling this coroutine cancels the calls."""
        try:
            for call in calls:
                await call.ended
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            raise
