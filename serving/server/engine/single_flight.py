"""Single flight: callers that request the same work at the same time share one execution of it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class SingleFlight:
    """Runs work by name, one at a time. Callers share an execution that has not started yet.

    An execution that has started is not shared: it may have read its input before the caller changed that. So however
    many callers come while one execution runs, at most one more follows.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}

    def do(self, name: str, work: Callable[[], None]) -> None:
        """Run the work, or wait for one of the same name that has yet to start. Raises what the work raises."""
        with self._lock:
            execution = self._waiting.get(name)
            is_first = execution is None
            if execution is None:
                execution = self._waiting[name] = Future()
        if is_first:
            self._run(name, work, execution)
        execution.result()

    def _run(self, name: str, work: Callable[[], None], execution: "Future[None]") -> None:
        with self._turn:
            with self._lock:
                del self._waiting[name]
            try:
                work()
            except BaseException as error:
                execution.set_exception(error)
            else:
                execution.set_result(None)
