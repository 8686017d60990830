"""How many pictures and large messages may wait for a thread that decodes them."""

import threading

from hangtag.serving.server.errors import QueueFullError


class DecodingPlaces:
    """Places for the requests that wait to be decoded, whatever their models. Thread-safe.

    A model's queue holds requests that are decoded. Those that are not would wait, and take memory, without a limit.
    """

    def __init__(self, count: int) -> None:
        """count: How many requests may wait."""
        self._free = threading.Semaphore(count)

    def take(self) -> None:
        """Take a place for a request that is handed to a thread. Raises QueueFullError at once if none is free."""
        if not self._free.acquire(blocking=False):
            raise QueueFullError(
                "as many pictures and large messages wait to be decoded as the queue holds (--max-queue-size); try "
                "again later with a back-off"
            )

    def leave(self) -> None:
        """Free the place of a request, which a thread begins to decode."""
        self._free.release()
