"""The memory that request bodies take together, over all HTTP connections of a process.

Each body has a limit of its own; without this one a client with many connections could take that much for each.
"""

from threading import Lock
from types import TracebackType

from hangtag.serving.server.errors import CancelledError, QueueFullError


class BodyBudget:
    """Bytes that the requests in flight share. Thread-safe."""

    def __init__(self, total: int, each: int) -> None:
        """Set the limits.

        Args:
            total: The most bytes of all bodies in flight.
            each: The most bytes of one body.
        """
        self._total = total
        self._each = each
        self._taken = 0
        self._lock = Lock()

    def hold(self, limit: int | None = None) -> "HeldBytes":
        """Return what one request takes its bytes through, in a ``with`` block that ends with its response.

        Args:
            limit: The most bytes of its body; None is the limit of each.
        """
        return HeldBytes(self, self._each if limit is None else limit)

    def set(self, held: "HeldBytes", count: int) -> None:
        """Let a request hold so many bytes. Raises what `HeldBytes.take` raises."""
        with self._lock:
            if held.ended:
                raise CancelledError("the caller left before the request was decoded")
            more = count - held.count
            if more > 0 and self._taken + more > self._total:
                raise QueueFullError(
                    f"the bodies of the HTTP requests in flight would take more than {self._total:,} bytes together "
                    "(--max-http-bodies-mib); try again later, or another replica"
                )
            self._taken += more
            held.count = count

    def end(self, held: "HeldBytes") -> None:
        """Take back what a request holds, for good: a thread may still decode it although its caller has left."""
        with self._lock:
            self._taken -= held.count
            held.count = 0
            held.ended = True


class HeldBytes:
    """The bytes that one request holds of a budget, until its ``with`` block ends."""

    __slots__ = ("_budget", "count", "ended", "limit")

    def __init__(self, budget: BodyBudget, limit: int) -> None:
        self.limit = limit
        """The most bytes of the request's body, as it was sent and decompressed."""
        self.count = 0
        self.ended = False
        self._budget = budget

    def take(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            QueueFullError: Too few are left; the request holds what it held before.
            CancelledError: The ``with`` block has ended.
        """
        self._budget.set(self, self.count + count)

    def exchange(self, count: int) -> None:
        """Hold so many bytes in place of those that were taken so far. Raises what `take` raises."""
        self._budget.set(self, count)

    def __enter__(self) -> "HeldBytes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.end(self)
