"""The open loop: issues queries at the times of a schedule, whether or not earlier queries were answered."""

from hangtag.serving.loadtest.generator.channels.channel import Channel, clock
from hangtag.serving.loadtest.generator.executors.executor import Assignment, Executor
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.plan.schedule import planned_send_times, random_generator

# A block whose generator falls behind is ended this many seconds after its maximum duration.
OVERTIME = 1.0


class OpenLoopExecutor(Executor):
    """Issues this process's part of the schedule: every processes-th query."""

    def __init__(self, assignment: Assignment, load: OpenLoop) -> None:
        super().__init__(assignment)
        # Every process computes the whole schedule and takes its part.
        block = assignment.block
        random = random_generator(block.seed, "schedule", block.round)
        schedule = planned_send_times(load, block.limits, block.warm_up, random)
        self._offsets: list[float] = schedule[self._process :: self._processes].tolist()
        self._schedule_end = self._start + (float(schedule[-1]) if schedule.size else 0.0)

    def pace(self) -> None:
        """Send each query at its planned time, or at once when that has passed."""
        deadline = self._recorder.window_start + self._block.limits.max_duration + OVERTIME
        for index, offset in enumerate(self._offsets):
            planned = self._start + offset
            wait = planned - clock()
            if self._stopped.wait(wait) if wait > 0 else self._stopped.is_set():
                return
            if clock() > deadline:
                self.stop(early=True)
                return
            self._send(self._channels[index % len(self._channels)], planned)
        self.stop()

    def check_limits(self) -> None:
        """Share the query count; the schedule itself ends the block."""
        self._counts.update(self._process, self._recorder.queries)

    def _window_end(self) -> float:
        return self._schedule_end  # However late the last query left.

    def _send_next(self, channel: Channel, ended: float, status: str) -> bool:
        return False
