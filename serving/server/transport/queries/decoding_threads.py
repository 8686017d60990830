"""The threads that decode pictures and large messages, and how many of these may wait for a thread."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hangtag.serving.server.errors import QueueFullError

Result = TypeVar("Result")


class DecodingThreads:
    """Threads, and places for the requests that wait for one, whatever their models. Thread-safe.

    A model's queue holds requests that are decoded. Those that are not would wait, and take memory, without a limit.
    Large pictures, which take long to decode and wait for memory, have as many threads of their own, so that no other
    request waits for them.
    """

    def __init__(self, threads: int, places: int) -> None:
        """Start no thread yet.

        Args:
            threads: How many decode large pictures, and how many all else.
            places: How many requests may wait.
        """
        self._free = threading.Semaphore(places)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._threads_for_large = ThreadPoolExecutor(threads, thread_name_prefix="decode-large")

    def take_place(self) -> None:
        """Take a place for a request before it is handed to a thread. Raises QueueFullError at once if none is free."""
        if not self._free.acquire(blocking=False):
            raise QueueFullError(
                "as many pictures and large messages wait to be decoded as the queue holds (--max-queue-size); try "
                "again later with a back-off"
            )

    def leave_place(self) -> None:
        """Free the place of a request that a thread begins to decode, or drops."""
        self._free.release()

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run work on a thread that is not for large pictures."""
        return self._threads.submit(work)

    def decode(self, work: Callable[[], None], *, is_large: bool) -> "Future[None] | None":
        """Decode a request: on this thread, or on one for large pictures when it is its turn.

        Args:
            work: Decodes the request.
            is_large: Whether the request has a large picture.

        Returns:
            The future of the work; None when it is done.
        """
        if is_large:
            return self._threads_for_large.submit(work)
        work()
        return None

    def close(self) -> None:
        """End the threads when they have done their work, and drop what waits for one."""
        self._threads.shutdown(cancel_futures=True)
        self._threads_for_large.shutdown(cancel_futures=True)
