"""The closed loop: keeps a fixed number of queries in flight; each answer triggers the next query."""

from hangtag.serving.loadtest.generator.channels.channel import Channel, clock
from hangtag.serving.loadtest.generator.executors.executor import Assignment, Executor
from hangtag.serving.loadtest.plan.load import ClosedLoop

# Seconds to wait after UNAVAILABLE: an unreachable server fails calls at once, and the loop would spin.
UNAVAILABLE_PAUSE = 0.01
# While answers arrive, limits are checked at least this often (seconds): another process may have ended the block.
CHECK_INTERVAL = 0.002


class ClosedLoopExecutor(Executor):
    """Issues a query into each of this process's slots, and the next one into the slot that an answer frees."""

    def __init__(self, assignment: Assignment, load: ClosedLoop) -> None:
        super().__init__(assignment)
        self._slots = load.concurrency // self._processes + (self._process < load.concurrency % self._processes)
        # Limits are checked after this many more answers, or at the first answer after this time.
        self._answers_to_check, self._check_at = 1, 0.0

    def pace(self) -> None:
        """Send the first query of each slot."""
        self._stopped.wait(max(self._start - clock(), 0.0))
        for slot in range(self._slots):
            self._send(self._channels[slot % len(self._channels)], clock())
        if not self._slots:  # There are more processes than queries in flight.
            self._stopped.set()
            self.drained.set()

    def check_limits(self) -> None:
        """Stop once all processes together reached the limits.

        Also called by the main thread, for when no answer arrives.
        """
        queries = self._counts.update(self._process, self._recorder.queries)
        now = clock()
        elapsed = now - self._recorder.window_start
        limits = self._block.limits
        if self._counts.end or limits.exceeded(elapsed, queries) or limits.reached(elapsed, queries):
            self.stop()
            return
        # No count can be exceeded before each process has completed its share of the missing queries.
        missing = [count - queries for count in (limits.min_query_count, limits.max_query_count) if count > queries]
        self._answers_to_check = max(min(missing) // self._processes, 1)
        ends = [end for end in (limits.min_duration, limits.max_duration) if end > elapsed]
        self._check_at = min(now + CHECK_INTERVAL, *(self._recorder.window_start + end for end in ends))

    def _send_next(self, channel: Channel, ended: float, status: str) -> bool:
        self._answers_to_check -= 1
        if self._answers_to_check <= 0 or ended >= self._check_at:
            self.check_limits()
        if status == "UNAVAILABLE":
            self._stopped.wait(UNAVAILABLE_PAUSE)
        if self._stopped.is_set():
            return False
        # The number in flight does not change, so no lock is taken.
        self._issue(channel, clock())
        return True
