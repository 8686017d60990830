"""The memory that request bodies take together, over all HTTP connections of a process.

Each body has a limit of its own; without this one a client with many connections could take that much for each.
"""

from threading import Lock
from types import TracebackType

from hangtag.serving.server.errors import QueueFullError


class BodyBudget:
    """Bytes that the requests in flight share. Thread-safe."""

    def __init__(self, total: int, each: int) -> None:
        """Set the limits.

        Args:
            total: The most bytes of all bodies in flight.
            each: The most bytes of one body.
        """
        self.each = each
        self._total = total
        self._taken = 0
        self._lock = Lock()

    def hold(self, limit: int | None = None) -> "HeldBytes":
        """Return what one request takes its bytes through, in a ``with`` block that ends with its response.

        Args:
            limit: The most bytes of its body; None is the limit of each.
        """
        return HeldBytes(self, self.each if limit is None else limit)

    def change(self, count: int) -> None:
        """Take so many bytes, or give them back where the count is negative.

        Raises:
            QueueFullError: Too few are left.
        """
        with self._lock:
            if self._taken + count > self._total:
                raise QueueFullError(
                    f"the bodies of the HTTP requests in flight would take more than {self._total:,} bytes together "
                    "(--max-http-bodies-mib); try again later, or another replica"
                )
            self._taken += count


class HeldBytes:
    """The bytes that one request holds of a budget, until its ``with`` block ends."""

    __slots__ = ("_budget", "_count", "limit")

    def __init__(self, budget: BodyBudget, limit: int) -> None:
        self.limit = limit
        """The most bytes of the request's body, as it was sent and decompressed."""
        self._budget = budget
        self._count = 0

    def take(self, count: int) -> None:
        """Take so many bytes more. Raises QueueFullError where too few are left; then none are taken."""
        self._budget.change(count)
        self._count += count

    def exchange(self, count: int) -> None:
        """Hold so many bytes in place of those that were taken so far. Raises QueueFullError where too few are left."""
        self._budget.change(count - self._count)
        self._count = count

    def __enter__(self) -> "HeldBytes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._count:
            self._budget.change(-self._count)
            self._count = 0
