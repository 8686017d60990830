"""The event loop of the gRPC servers: one for the whole process, in a thread of its own.

grpc.aio takes its events from one queue for the whole process, and disturbs loops that share it. So every server runs
on this loop, which starts with the first of them and ends with the process. It is uvloop's where that is installed.

A program may call grpc.aio on a loop of its own beside a server. With older versions of grpcio (seen with 1.76, not
with 1.85) both loops wake up for an event, and the second finds it taken and reports a BlockingIOError. No event is
lost, so this loop does not log it.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

from hangtag.serving.server.telemetry.log import redirect_library_log

Result = TypeVar("Result")

log = structlog.get_logger()

_SWITCH_SECONDS = 0.001
"""How long this loop's thread may run on while another thread waits for the interpreter lock.

A turn of the loop that reads or answers 64 requests holds the lock for milliseconds, and the threads that compute wait
for it with the next batch. With Python's 5 ms the loop and the computation took turns instead of running at once, and
64 connections over HTTP got a fifth fewer answers a second.
"""

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_run_loop: Callable[..., object] = asyncio.run
with contextlib.suppress(ImportError):  # uvloop has no wheel for some platforms
    import uvloop

    _run_loop = uvloop.run


def event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop; the first call starts it."""
    global _loop
    with _starting:
        if _loop is None:
            sys.setswitchinterval(_SWITCH_SECONDS)
            started: Future[asyncio.AbstractEventLoop] = Future()
            threading.Thread(target=_run_loop, args=(_run_for_ever(started),), name="grpc", daemon=True).start()
            _loop = started.result()
    return _loop


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the loop and return its result. Call it from any other thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop()).result()


async def _run_for_ever(started: "Future[asyncio.AbstractEventLoop]") -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_error)
    redirect_library_log("grpc", with_values=False)  # it logs each value of the metadata that is not UTF-8
    started.set_result(loop)
    await loop.create_future()


def _log_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, BlockingIOError):  # see above
        log.error("unexpected error in the event loop", reason=context.get("message"), exc_info=error)
