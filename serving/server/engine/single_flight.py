"""The same work asked for by many at once: done at most twice, however many they are and whether they still wait."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class SingleFlight:
    """Work by name. Whoever asks while the same waits for its turn waits with it, and gets the same result.

    What has begun already is not joined: it may have looked before there was what the caller wants seen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}

    def do(self, name: str, work: Callable[[], None]) -> None:
        """Do the work, or wait until somebody else has done it. Raises what the work raises."""
        with self._lock:
            done = self._waiting.get(name)
            mine = done is None
            if done is None:
                done = self._waiting[name] = Future()
        if mine:
            self._do(name, work, done)
        done.result()

    def _do(self, name: str, work: Callable[[], None], done: "Future[None]") -> None:
        with self._turn:
            with self._lock:
                del self._waiting[name]
            try:
                work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)
