"""Collects the reasons why a process of the command ``hangtag serve``, or a worker of a server, should stop."""

import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host import machine

_CHECK_SECONDS = 0.5


class StopReasons:
    """The reasons to stop that have arrived so far."""

    def __init__(self) -> None:
        # A signal's handler interrupts the main thread anywhere, even while the log or an Event holds its lock. The
        # handler only calls SimpleQueue.put, which is reentrant.
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def put(self, reason: str) -> None:
        """Add a reason, from any thread."""
        self._reasons.put(reason)

    def add_signals(self, *numbers: signal.Signals) -> None:
        """Treat these signals as reasons to stop. A second signal ends the process at once, with code 1."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            for each in numbers:
                signal.signal(each, lambda *_: os._exit(1))  # workers end when their supervisor has ended
            self.put(signal.Signals(number).name)

        for number in numbers:
            signal.signal(number, on_signal)

    def wait(self, failure: Callable[[], str] = lambda: "") -> str:
        """Wait for the first reason and return it. Meanwhile, log when no more files can be opened. ``failure`` returns
        why the server no longer serves, or "" while it does, and becomes a StartError."""
        exhausted = False
        # Python runs signal handlers in the main thread only. If the kernel delivers the signal to another thread, a
        # wait without a timeout would never return, so the main thread wakes up now and then.
        while True:
            try:
                return self._reasons.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                exhausted = machine.check_open_files(exhausted=exhausted)
                if problem := failure():
                    raise StartError(problem) from None


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM if the context takes longer than ``seconds``, for example because a computation never
    ends. The signal's default action ends the process, regardless of what the threads do."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
