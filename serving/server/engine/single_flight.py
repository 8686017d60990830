"""Single flight: callers that request the same work at the same time share one execution of it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class SingleFlight:
    """Runs work by name, one at a time, in a thread of its own. Callers share an execution that has not started yet.

    An execution that has started is not shared: it may have read its input before the caller changed that. So however
    many callers come while one execution runs, at most one more follows.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="single-flight")
        self._waiting: dict[str, Future[None]] = {}

    def do(self, name: str, work: Callable[[], None]) -> "Future[None]":
        """Return the execution of this work, or one of the same name that has yet to start. Do not cancel it."""
        with self._lock:
            if name not in self._waiting:
                self._waiting[name] = self._thread.submit(self._run, name, work)
            return self._waiting[name]

    def close(self) -> None:
        """Start nothing more. What waits runs, and nobody waits for it here."""
        self._thread.shutdown(wait=False)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        with self._lock:
            del self._waiting[name]
        work()
