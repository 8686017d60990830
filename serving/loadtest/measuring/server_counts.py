"""What the servers counted of the queries that they answered, and whether one restarted or is one of several."""

from collections import Counter
from collections.abc import Callable

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.messages import Block
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings

# Reads the current counters of a target's server, by the target's name; None where it keeps none.
ReadCounters = Callable[[str], ServerTimings | None]
# A server counts at least this share of what it answered: it may send its last answers before it counts them.
COUNTED_SHARE = 0.9
# One that was unreachable, and has not counted this many of the queries that it answered, has restarted.
UNCOUNTED = 16
UNREACHABLE = "UNAVAILABLE"
WARM_UP = "warm-up"  # In the place of a status: those of the warm-up's queries are not recorded.
# Counters that do not fit the queries are read this many times more, to see whether they are those of one server.
MORE_READINGS = 16


class ServerCounts:
    """Reads the counters of a target's server before and after each of its blocks.

    The counters of one server only grow, until it or the model restarts. Behind a balancer each reading may come from
    another server, or all of them from one that gets a part of the queries. Such counters say nothing of the queries,
    and no restart follows from them: the target is then in `counted_in_part`.
    """

    def __init__(self, read: ReadCounters) -> None:
        self.counted_in_part: set[str] = set()
        self._read = read
        self._known_before = False  # Whether the counters were read when the current block began.
        # By target: the counters when they were last read, and how its queries have ended since.
        self._last: dict[str, tuple[ServerTimings | None, Counter[str]]] = {}
        self._restarted: set[tuple[Load, str]] = set()

    def begin(self, block: Block) -> None:
        """Read the counters before a block."""
        counters, _ = self._update(block, Counter())
        self._known_before = counters is not None

    def end(self, block: Block, result: BlockResult) -> ServerTimings | None:
        """Read the counters after the block, and return what was counted during it; None where that is unknown."""
        _, counted = self._update(block, result.statuses + Counter({WARM_UP: result.warm_up_queries}))
        # Without counters from before the block, `counted` covers more than the block.
        return counted if self._known_before else None

    def restarted(self, load: Load, target: str) -> bool:
        """Whether the target's server, or the model, restarted while the target was measured under this load."""
        return (load, target) in self._restarted and target not in self.counted_in_part

    def _update(self, block: Block, statuses: Counter[str]) -> tuple[ServerTimings | None, ServerTimings | None]:
        """Read the counters of the block's target; `statuses` are those of the queries since the last call.

        An unreachable server is skipped, and compared with its last known counters once it answers again.

        Returns:
            The counters, and what they counted since they were last read; None where unknown.
        """
        if block.target in self.counted_in_part:
            return None, None
        counters = self._read(block.target)
        last, ended = self._last.get(block.target, (None, Counter()))
        ended = ended + statuses
        if counters is None:
            self._last[block.target] = last, ended
            return None, None
        counted = None
        if last is not None:
            counted = counters.since(last)
            if not _fits(counted, ended):
                counters, counted = self._explain(block, counters, last, ended)
        self._last[block.target] = counters, Counter()
        return counters, counted

    def _explain(
        self, block: Block, counters: ServerTimings, last: ServerTimings, ended: Counter[str]
    ) -> tuple[ServerTimings, ServerTimings | None]:
        """Find out why these counters do not fit the queries. Returns them as read last, and what they counted."""
        for _ in range(MORE_READINGS):
            again = self._read(block.target)
            if again is None:
                break
            if again.since(counters) is None:  # At once after the reading before: this is another server.
                self.counted_in_part.add(block.target)
                return again, None
            counters = again
        counted = counters.since(last)
        if counted is not None and not _lacks(counted, ended):
            return counters, counted  # It counted late, or other clients' queries too.
        if counted is None or ended[UNREACHABLE]:
            self._restarted.add((block.load, block.target))
        else:
            self.counted_in_part.add(block.target)
        return counters, None


def _fits(counted: ServerTimings | None, ended: Counter[str]) -> bool:
    """Whether about as many queries were counted as ended. Without any, only another target's can have been counted."""
    if counted is None or _lacks(counted, ended):
        return False
    return not ended or counted.count <= ended.total() / COUNTED_SHARE + UNCOUNTED


def _lacks(counted: ServerTimings, ended: Counter[str]) -> bool:
    """Whether queries are missing that a server has answered."""
    answered = ended[OK]
    few = counted.count < COUNTED_SHARE * answered
    return few or (bool(ended[UNREACHABLE]) and answered - counted.count > UNCOUNTED)
