"""Turns Ctrl-C into an event, so that an interrupted test still ends with a report."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second signal has its usual effect."""
    stop = threading.Event()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in handlers:
        signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        restore()
