"""Collects how calls on a channel ended."""

from queue import SimpleQueue
from typing import Any


class Ends:
    """Collects how calls ended."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Any, int, str]] = SimpleQueue()

    def __call__(self, token: Any, sent: float, ended: float, code: int, details: str) -> None:
        self._queue.put((token, code, details))

    def next(self) -> tuple[Any, int, str]:
        return self._queue.get(timeout=10)
