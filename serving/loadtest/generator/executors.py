"""Sends one process's share of a block's queries. There is an executor for each kind of load."""

import ctypes
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.block_result import OK, BlockResult, Recorder
from hangtag.serving.loadtest.generator.channels import STATUS_NAMES, Channel, Metadata, RequestPool, clock
from hangtag.serving.loadtest.plan.load import Block, ClosedLoop, OpenLoop, planned_send_times, random_generator


class SharedCounts:
    """Lets each process see how many queries all processes together have completed, and whether the test was stopped.

    No lock is needed: each process writes only its own count, and only the first process that reaches the end writes
    `end`.

    Attributes:
        completed: For each process, how many queries of the block it has completed.
        end: The time on the monotonic clock at which the block's measuring ended; 0 while measuring continues.
        stopped: Whether the test was stopped, so that the current block and all later blocks end at once.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        # mypy regards the types of ctypes as Any.
        self.completed: Any = context.RawArray(ctypes.c_int64, processes)
        self.end: Any = context.RawValue(ctypes.c_double, 0.0)
        self.stopped: Any = context.RawValue(ctypes.c_bool, False)


@dataclass(frozen=True)
class Share:
    """The part of each block's queries that one of the generator processes sends, and the settings of the calls.

    A call is lost if its end is not reported within `lost_after` seconds after its deadline. If an overloaded server
    cuts a connection, gRPC's core (grpcio 1.85) sometimes never reports the end of the connection's calls.
    """

    counts: SharedCounts
    process: int = 0  # The index of the generator process.
    processes: int = 1
    channels: int = 1  # Connections to each server.
    deadline: float = 10.0  # Seconds.
    credentials: Credentials = field(default_factory=Credentials)
    lost_after: float = 5.0


# The main thread checks the limits after this many seconds, because a stalled server sends no answers.
WAIT_INTERVAL = 0.2
# Calls that are still in flight this many seconds after a stop are cancelled.
STOP_GRACE = 0.5


class Executor(ABC):
    """Sends this process's share of the queries of one block.

    The pacer's thread calls `_pace`, the channels' threads call `_on_end`, and the process's main thread calls `run`.
    `_drained` is set as soon as nothing more will be recorded.
    """

    def __init__(self, block: Block, channels: Sequence[Channel], pool: RequestPool, share: Share) -> None:
        self._block, self._channels, self._method, self._share = block, channels, pool.method, share
        # Process i of n starts at request i and takes every n-th request, so that the processes together send all
        # requests in rotation.
        count = len(pool.requests)
        order = range(share.process, share.process + share.processes * count, share.processes)
        self._requests = itertools.cycle([pool.requests[index % count] for index in order])
        self._deadline, self._end = share.deadline, share.counts.end
        self._metadata: Metadata = share.credentials.metadata() or None
        self._start = self._last_sent = block.start or clock()
        self._recorder = Recorder(self._start + block.warm_up)
        self._in_flight, self._lock = 0, threading.Lock()
        self._stopped, self._stopped_early = threading.Event(), False
        self._drained = threading.Event()

    def run(self) -> BlockResult:
        """Issue the queries, and return what this process measured."""
        pacer = threading.Thread(target=self._pace, name="pacer", daemon=True)
        pacer.start()
        while not self._drained.wait(WAIT_INTERVAL):
            self._recorder.fold(self._end.value)
            if self._share.counts.stopped.value:
                self._stop(clock(), early=True)
                if not self._drained.wait(STOP_GRACE):
                    # The calls in flight are about to be cancelled, so no more queries are recorded.
                    self._stopped_early = True
                    self._drained.set()
            else:
                self._check_limits()
                with self._lock:
                    latest = self._last_sent + self._deadline + self._share.lost_after
                    if self._stopped.is_set() and clock() > latest and not self._drained.is_set():
                        # The calls in flight are lost. They count as failed, so that the block can end.
                        self._recorder.record_lost(self._in_flight)
                        self._drained.set()
        pacer.join()
        return self._recorder.result(self._end.value, stopped=self._stopped_early)

    @abstractmethod
    def _pace(self) -> None:
        """Send the queries that need not wait for the answer to an earlier query."""

    def _check_limits(self) -> None:
        """Publish this process's query count, and stop if all processes of a closed loop have reached the limits."""
        self._share.counts.completed[self._share.process] = self._recorder.queries

    def latency_share(self, busy: float) -> float:
        """Return the share of a closed loop's latency that the generator causes. `busy` is the share of the time in
        which the generator is busy."""
        return 0.0

    def _send_next(self, channel: Channel, sent: float, ended: float, status: str) -> bool:
        """Send the query that an answer triggers, if any, and return whether a query was sent. `sent` is the send time
        of the answered query."""
        return False

    def _stop(self, at: float, *, early: bool = False) -> None:
        """Send no more queries, but wait for the queries in flight, so that slow queries are recorded too. Measuring
        ends at the time `at`. `early` says whether the block ends before its limits are reached."""
        with self._lock:
            if not self._stopped.is_set():
                self._stopped_early = early
                self._end.value = self._end.value or at
                self._stopped.set()
            if not self._in_flight:
                self._drained.set()

    def _send(self, channel: Channel, planned: float) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._in_flight += 1
        self._issue(channel, planned)

    def _issue(self, channel: Channel, planned: float) -> None:
        self._last_sent = clock()
        token = (channel, planned)
        channel.send(self._method, next(self._requests), self._deadline, self._metadata, token, self._on_end)

    def _on_end(self, token: tuple[Channel, float], sent: float, ended: float, code: int, details: str) -> None:
        channel, planned = token
        if self._drained.is_set():  # the call was abandoned, or counted as lost
            return
        status = OK if code == 0 else STATUS_NAMES.get(code, str(code))
        self._recorder.record(planned, sent, ended, status)
        if code:
            self._recorder.details.setdefault(status, details)
        if self._send_next(channel, sent, ended, status):
            return
        with self._lock:
            self._in_flight -= 1
            if not self._in_flight and self._stopped.is_set():
                self._drained.set()


# The seconds to wait after UNAVAILABLE. Calls to an unreachable server fail at once, so the loop would spin.
UNAVAILABLE_PAUSE = 0.01
# While answers arrive, the limits are checked at least once in this many seconds, because another process may have
# ended the block.
CHECK_INTERVAL = 0.002
# If a channel's thread takes its next answer within this many seconds of handling the previous answer, the program
# assumes that the thread did not sleep in between. In measurements, the gap was 4 to 15 µs if the answer was already
# there, and at least 60 µs if the thread had slept.
IDLE = 30e-6


@dataclass
class _Taking:
    """The times at which a channel's thread handled answers. Times are on `clock`."""

    done: float = 0.0  # The time at which the thread was ready for the next answer.
    busy_since: float = 0.0  # The time at which the thread last woke up.
    waited: float = 0.0  # An upper bound of the total time for which answers waited for the thread.
    answers: int = 0


class ClosedLoopExecutor(Executor):
    """Keeps one query in flight in each of this process's slots."""

    def __init__(self, *assignment: Any) -> None:
        super().__init__(*assignment)
        slots, rest = divmod(self._block.load.concurrency or 0, self._share.processes)
        self._slots = slots + (self._share.process < rest)
        self._taking = {channel: _Taking() for channel in self._channels}
        # The limits are checked again after `_answers_to_check` answers, or at the first answer after the time
        # `_check_at`.
        self._answers_to_check, self._check_at = 1, 0.0

    def _pace(self) -> None:
        """Send the first queries, as many as this process keeps in flight."""
        self._stopped.wait(max(self._start - clock(), 0.0))
        for slot in range(self._slots):
            self._send(self._channels[slot % len(self._channels)], clock())
        if not self._slots:  # If there are more processes than queries in flight, some send none.
            self._stopped.set()
            self._drained.set()

    def _check_limits(self) -> None:
        super()._check_limits()
        queries, now = sum(self._share.counts.completed), clock()
        elapsed = now - self._recorder.window_start
        limits = self._block.limits
        if self._end.value or limits.exceeded(elapsed, queries) or limits.reached(elapsed, queries):
            self._stop(now)
            return
        # When N processes have completed all remaining queries, at least one process has completed 1/N or more.
        missing = [count - queries for count in (limits.min_query_count, limits.max_query_count) if count > queries]
        self._answers_to_check = max(min(missing) // self._share.processes, 1)
        ends = [end for end in (limits.min_duration, limits.max_duration) if end > elapsed]
        self._check_at = min(now + CHECK_INTERVAL, *(self._recorder.window_start + end for end in ends))

    def latency_share(self, busy: float) -> float:
        """The share has two parts: the generator's own time for a query, and the time for which answers wait for the
        generator. By Little's law, the first part is `busy` / (queries in flight)."""
        answers = sum(taking.answers for taking in self._taking.values())
        latency = self._recorder.latency.mean
        if not answers or not latency > 0:
            return 0.0
        waited = sum(taking.waited for taking in self._taking.values()) / answers
        return min(busy / self._slots + waited / latency, 1.0)

    def _send_next(self, channel: Channel, sent: float, ended: float, status: str) -> bool:
        taking = self._taking[channel]
        if ended - taking.done > IDLE:
            taking.busy_since = ended
        taking.answers += 1
        taking.waited += ended - max(taking.busy_since, sent)
        self._answers_to_check -= 1
        if self._answers_to_check <= 0 or ended >= self._check_at:
            self._check_limits()
        if status == "UNAVAILABLE":
            self._stopped.wait(UNAVAILABLE_PAUSE)
        if self._stopped.is_set():
            return False
        # The number of queries in flight does not change, so this method needs no lock.
        self._issue(channel, clock())
        taking.done = clock()
        return True


# If the generator falls behind, the block is ended this many seconds after its maximum duration.
OVERTIME = 1.0


class OpenLoopExecutor(Executor):
    """Issues this process's part of the schedule: every n-th query if there are n processes."""

    def __init__(self, *assignment: Any) -> None:
        super().__init__(*assignment)
        block = self._block
        assert isinstance(block.load, OpenLoop)
        # Every process computes the whole schedule, and issues only its own part.
        random = random_generator(block.seed, "schedule", block.round)
        schedule = planned_send_times(block.load, block.limits, block.warm_up, random)
        self._offsets: list[float] = schedule[self._share.process :: self._share.processes].tolist()
        self._schedule_end = self._start + (float(schedule[-1]) if schedule.size else 0.0)

    def _pace(self) -> None:
        """Send each query at its planned time, or at once if that time has passed."""
        deadline = self._recorder.window_start + self._block.limits.max_duration + OVERTIME
        for index, offset in enumerate(self._offsets):
            planned = self._start + offset
            wait = planned - clock()
            if self._stopped.wait(wait) if wait > 0 else self._stopped.is_set():
                return
            if clock() > deadline:
                self._stop(clock(), early=True)
                return
            self._send(self._channels[index % len(self._channels)], planned)
        self._stop(self._schedule_end)  # A query that is sent late does not extend the measurement.


def create(block: Block, channels: Sequence[Channel], pool: RequestPool, share: Share) -> Executor:
    kind = ClosedLoopExecutor if isinstance(block.load, ClosedLoop) else OpenLoopExecutor
    return kind(block, channels, pool, share)
