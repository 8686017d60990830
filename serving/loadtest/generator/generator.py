"""Sending queries: N in flight in a closed loop, or at planned times in an open one. In the generator's processes."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hangtag.serving.loadtest.generator import thread_times as occupancy
from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.channels import STATUS_NAMES, Channel, Metadata, clock, connect
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.recorder import Recorder
from hangtag.serving.loadtest.generator.shared_counts import SharedCounts
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.plan.schedule import planned_send_times, random_generator
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

PROGRESS_INTERVAL = 0.2
# After a stop, answers under way may still arrive for this long (seconds); then their calls are cancelled.
STOP_GRACE = 0.5
# A closed loop on a server that is gone would fail as fast as it can: it waits so long (seconds) before the next query.
UNAVAILABLE_PAUSE = 0.01
# An open loop whose generator falls behind would last longer than it may: it is ended so long (seconds) after that.
LATEST = 1.0
# While answers arrive a closed loop looks at its limits at least so often (seconds): another process may have ended it.
LOOK_INTERVAL = 0.002


class Generator:
    """One process's part of the generator: holds connections and requests, and runs blocks one after the other."""

    def __init__(
        self,
        feeds: Mapping[str, RequestPool],
        connections: CallSettings,
        tally: SharedCounts,
        place: int = 0,
        places: int = 1,
    ) -> None:
        """`feeds` by target name. This is process number `place` of `places`. Raises CredentialsError."""
        self._feeds = feeds
        self._connections = connections
        self._tally = tally
        self._place, self._places = place, places
        DurationHistogram.prepare()
        self._calls: dict[str, list[Channel]] = {}
        for address in dict.fromkeys(feed.address for feed in feeds.values()):
            self._calls[address] = [
                connect(address, connections.credentials, public_api=connections.public_api)
                for _ in range(connections.per_process)
            ]

    @property
    def path(self) -> str:
        """How calls are made, for the report."""
        return ", ".join(sorted({calls.name for every in self._calls.values() for calls in every}))

    def run(self, block: Block, keep_going: Callable[[Snapshot], bool]) -> BlockResult:
        """Run a block to its end. `keep_going` is called now and then; when it answers False the block ends early."""
        feed = self._feeds[block.target]
        run = _BlockRun(
            block, self._calls[feed.address], feed, self._connections, self._tally, self._place, self._places
        )
        cpu, wall, threads = time.process_time(), clock(), occupancy.occupied()
        pacer = threading.Thread(target=run.pace, name="pacer", daemon=True)
        pacer.start()
        while not run.drained.wait(PROGRESS_INTERVAL):
            if not keep_going(run.snapshot()):
                run.stop(early=True)
                if not run.drained.wait(STOP_GRACE):
                    run.abandon()
                    self.close()
                break
            run.check_limits()
        pacer.join()
        taken = max(clock() - wall, 1e-9)
        busy = occupancy.busiest(threads, occupancy.occupied(), taken)
        return replace(run.result(), generator_cpu=(time.process_time() - cpu) / taken, generator_busy=busy)

    def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        for every in self._calls.values():
            for calls in every:
                calls.close()


class _BlockRun:
    """One block under way. Its methods run on the pacer's, the calls', and the process's main thread."""

    def __init__(
        self,
        block: Block,
        calls: Sequence[Channel],
        feed: RequestPool,
        connections: CallSettings,
        tally: SharedCounts,
        place: int,
        places: int,
    ) -> None:
        self._block = block
        self._calls = calls
        self._method = feed.method
        # Each process begins elsewhere and takes every places-th, so that together they take turns with all of them.
        turns = _turns(place, places, len(feed.requests))
        self._requests = itertools.cycle([feed.requests[(block.first + at) % len(feed.requests)] for at in turns])
        self._deadline = connections.deadline
        self._metadata: Metadata = connections.credentials.metadata() or None
        self._tally, self._place, self._places = tally, place, places
        self._start = block.start or clock()
        self._recorder = Recorder(self._start + block.warm_up, block.limits)
        self._planned: list[float] | None = None
        self._planned_end = 0.0
        if isinstance(block.load, OpenLoop):
            # Every process computes the whole schedule, and keeps its part.
            random = random_generator(block.seed, "schedule", block.round)
            times = planned_send_times(block.load, block.limits, block.warm_up, random)
            self._planned = times[place::places].tolist()
            self._planned_end = self._start + (times[-1] if times.size else 0.0)
        self._in_flight = 0
        # A closed loop looks at its limits after so many answers more, or at the first after this time.
        self._look_after, self._look_at = 1, 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._early = False
        self._abandoned = False
        self.drained = threading.Event()

    def pace(self) -> None:
        """Send what is not triggered by an answer: a closed loop's first queries, or all of an open loop's."""
        calls = self._calls
        load = self._block.load
        if isinstance(load, ClosedLoop):
            self._stopped.wait(max(self._start - clock(), 0.0))
            mine = load.concurrency // self._places + (self._place < load.concurrency % self._places)
            for slot in range(mine):
                self._send(calls[slot % len(calls)], clock())
            if not mine:  # More processes than queries in flight: the block is the others'.
                self._stopped.set()
                self.drained.set()
            return
        assert self._planned is not None
        latest = self._recorder.window_start + self._block.limits.max_duration + LATEST
        for number, offset in enumerate(self._planned):
            due = self._start + offset
            wait = due - clock()
            if self._stopped.wait(wait) if wait > 0 else self._stopped.is_set():
                return
            if clock() > latest:
                self.stop(early=True)
                return
            self._send(calls[number % len(calls)], due)
        self.stop()

    def stop(self, *, early: bool = False) -> None:
        """Send nothing more. What is in flight is still waited for, so that no slow query is left out.

        `early` when somebody asked for it: then the block is not finished, whatever it has measured.
        """
        with self._lock:
            if not self._stopped.is_set():
                self._early = early
                # An open loop's window is its schedule's, however late its last query left.
                self._tally.finish(clock() if early or self._planned is None else self._planned_end)
                self._stopped.set()
            if not self._in_flight:
                self.drained.set()

    def abandon(self) -> None:
        """Record nothing more: the calls still in flight are about to be cancelled."""
        self._abandoned = True
        self.drained.set()

    def check_limits(self) -> None:
        """Stop once enough was measured. A closed loop looks when an answer may have been the last that it needs; the
        process's main thread looks now and then, for when none comes."""
        queries = self._tally.count(self._place, self._recorder.queries)
        if self._planned is not None:
            return  # Its schedule has an end.
        now = clock()
        elapsed = now - self._recorder.window_start
        limits = self._block.limits
        if self._tally.end or limits.exceeded(elapsed, queries) or limits.reached(elapsed, queries):
            self.stop()
            return
        # If every process has its share of these, no count is exceeded. Another one may have seen the end by then.
        wanted = [count - queries for count in (limits.min_query_count, limits.max_query_count) if count > queries]
        self._look_after = max(min(wanted) // self._places, 1)
        ends = [end for end in (limits.min_duration, limits.max_duration) if end > elapsed]
        self._look_at = min(now + LOOK_INTERVAL, *(self._recorder.window_start + end for end in ends))

    def snapshot(self) -> Snapshot:
        """How this process's part of the block stands."""
        recorder = self._recorder
        recorder.fold(self._tally.end)
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
        """What this process measured, once drained."""
        block, stopped = self._block, self._early or self._abandoned
        return self._recorder.result(block.target, block.load, self._tally.end, stopped=stopped)

    def _send(self, calls: Channel, planned: float) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._in_flight += 1
        token = (calls, planned, clock())
        calls.send(self._method, next(self._requests), self._deadline, self._metadata, token, self._ended)

    def _send_next(self, calls: Channel) -> None:
        """In the slot that an answer has freed: as many are in flight as before, so nothing is counted or locked."""
        now = clock()
        calls.send(self._method, next(self._requests), self._deadline, self._metadata, (calls, now, now), self._ended)

    def _ended(self, token: tuple[Channel, float, float], ended: float, code: int, details: str) -> None:
        calls, planned, sent = token
        if self._abandoned:
            return
        status = OK if code == 0 else STATUS_NAMES.get(code, str(code))
        self._recorder.record(planned, sent, ended, status)
        if code:
            self._recorder.details.setdefault(status, details)
        if self._planned is None:
            self._look_after -= 1
            if self._look_after <= 0 or ended >= self._look_at:
                self.check_limits()
            if status == "UNAVAILABLE":
                self._stopped.wait(UNAVAILABLE_PAUSE)
            if not self._stopped.is_set():
                self._send_next(calls)
                return
        with self._lock:
            self._in_flight -= 1
            if not self._in_flight and self._stopped.is_set():
                self.drained.set()


def _turns(place: int, places: int, requests: int) -> range:
    return range(place, place + places * requests, places)
