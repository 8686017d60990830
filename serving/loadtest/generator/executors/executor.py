"""What the executors of both kinds of load share: sending, recording, stopping."""

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.channels.channel import STATUS_NAMES, Channel, Metadata, clock
from hangtag.serving.loadtest.generator.executors.recorder import Recorder
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts, Snapshot

# Passed through a call: its channel and its planned send time.
Token = tuple[Channel, float]


@dataclass(frozen=True)
class Assignment:
    """A block, the means to issue its queries, and which share of it is this process's: `process` of `processes`."""

    block: Block
    channels: Sequence[Channel]
    pool: RequestPool
    settings: CallSettings
    counts: SharedCounts
    process: int
    processes: int


class Executor(ABC):
    """Issues this process's share of one block.

    Three kinds of threads call it: the pacer calls `pace`, the channels' threads call `_on_end`, and the process's main
    thread calls the rest. `drained` is set once nothing more will be recorded.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._block = block = assignment.block
        self._channels = assignment.channels
        self._method = assignment.pool.method
        self._counts = assignment.counts
        self._process, self._processes = process, processes = assignment.process, assignment.processes
        # Each process starts at another request and takes every processes-th, so that together they rotate through all.
        pool = assignment.pool.requests
        order = range(process, process + processes * len(pool), processes)
        self._requests = itertools.cycle([pool[(block.first + index) % len(pool)] for index in order])
        settings = assignment.settings
        self._deadline = settings.deadline
        self._lost_after = settings.deadline + settings.lost_after
        self._metadata: Metadata = settings.credentials.metadata() or None
        self._start = block.start or clock()
        self._recorder = Recorder(self._start + block.warm_up, block.limits)
        self._in_flight = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stopped_early = False
        self._abandoned = False
        self._last_sent = self._start
        self.drained = threading.Event()

    @abstractmethod
    def pace(self) -> None:
        """Send the queries that no answer triggers."""

    @abstractmethod
    def check_limits(self) -> None:
        """Share this process's query count, and stop once the limits are reached. Called now and then."""

    @abstractmethod
    def _send_next(self, channel: Channel, ended: float, status: str) -> bool:
        """Send the query that an answer triggers, and return whether one was sent."""

    def _window_end(self) -> float:
        """When the measuring ends, if nothing ends it early."""
        return clock()

    def stop(self, *, early: bool = False) -> None:
        """Send nothing more, but wait for the queries in flight, so that no slow query is left out.

        Args:
            early: The user stopped the test, so the block is not finished, whatever it has measured.
        """
        with self._lock:
            if not self._stopped.is_set():
                self._stopped_early = early
                self._counts.finish(clock() if early else self._window_end())
                self._stopped.set()
            if not self._in_flight:
                self.drained.set()

    def abandon(self) -> None:
        """Record nothing more: the calls in flight are about to be cancelled."""
        self._abandoned = True
        self.drained.set()

    def give_up_lost_calls(self) -> None:
        """Count the calls that gRPC has lost as failed, so that the block ends. Called now and then."""
        if not self._stopped.is_set() or clock() < self._last_sent + self._lost_after:
            return
        with self._lock:
            if not self.drained.is_set():
                self._recorder.record_lost(self._in_flight)
                self.drained.set()

    def snapshot(self) -> Snapshot:
        """The progress of this process's share."""
        recorder = self._recorder
        recorder.fold(self._counts.end)
        elapsed = clock() - self._start
        measured = max(elapsed - self._block.warm_up, 1e-9)
        answered = recorder.statuses[OK]
        return Snapshot(
            elapsed=elapsed,
            queries=recorder.queries,
            failed=recorder.statuses.total() - answered,
            rate=answered / measured,
            p50=recorder.latency.percentile(50),
            p99=recorder.latency.percentile(99),
        )

    def result(self) -> BlockResult:
        """What this process measured. Call it once `drained` is set."""
        stopped = self._stopped_early or self._abandoned
        return self._recorder.result(self._block.target, self._block.load, self._counts.end, stopped=stopped)

    def _send(self, channel: Channel, planned: float) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._in_flight += 1
        self._issue(channel, planned)

    def _issue(self, channel: Channel, planned: float) -> None:
        self._last_sent = clock()
        token: Token = (channel, planned)
        channel.send(self._method, next(self._requests), self._deadline, self._metadata, token, self._on_end)

    def _on_end(self, token: Token, sent: float, ended: float, code: int, details: str) -> None:
        channel, planned = token
        if self.drained.is_set():  # abandoned, or given up for lost
            return
        status = OK if code == 0 else STATUS_NAMES.get(code, str(code))
        self._recorder.record(planned, sent, ended, status)
        if code:
            self._recorder.details.setdefault(status, details)
        if self._send_next(channel, ended, status):
            return
        with self._lock:
            self._in_flight -= 1
            if not self._in_flight and self._stopped.is_set():
                self.drained.set()
