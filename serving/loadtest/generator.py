"""Sending queries: a closed loop of N in flight, or an open loop at planned times. Runs in the generator's process.

It drives gRPC with `.future()` and a callback, on serialised bytes. Of grpcio's public ways from Python this was the
lightest at one query in flight and level with grpc.aio at 64; blocking calls on threads took twice the CPU. An event
loop also rounds its timers up to milliseconds: in an open loop that doubled the p50 of a fast model.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import grpc

from serving.credentials import Credentials
from serving.loadtest.recorder import OK, BlockResult, Recorder
from serving.loadtest.scenario import ClosedLoop, Limits, Load, OpenLoop
from serving.loadtest.schedule import generator_for, planned_times

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROGRESS_INTERVAL = 0.2
# After a stop, answers under way may still arrive for this long (seconds); then their calls are cancelled.
STOP_GRACE = 0.5

clock = time.perf_counter

Infer: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"


@dataclass(frozen=True)
class Block:
    """One order to the generator: queries to one model under one load. `round` tells its schedule from the others'."""

    model: str
    load: Load
    limits: Limits
    warm_up: float
    seed: int
    round: int


@dataclass(frozen=True)
class Snapshot:
    """How a running block stands. Seconds, and queries a second."""

    elapsed: float
    queries: int
    failed: int
    rate: float
    p50: float
    p99: float


class Generator:
    """Holds the channels and the serialised requests, and runs blocks one after the other."""

    def __init__(
        self,
        address: str,
        channels: int,
        deadline: float,
        requests: dict[str, tuple[bytes, ...]],
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        """`requests` holds each model's; every call gets `deadline` seconds. Raises CredentialsError."""
        # Channels with equal arguments would share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [credentials.channel(address, options) for _ in range(channels)]
        # Without serialisers gRPC takes and gives bytes.
        self._calls: list[Infer] = [channel.unary_unary(METHOD) for channel in self._channels]
        self._deadline = deadline
        self._requests = requests
        self._credentials = credentials

    def connect(self, timeout: float) -> None:
        """Open every connection, so that no query pays for one. One that fails shows later, in the calls' status."""
        for channel in self._channels:
            try:
                grpc.channel_ready_future(channel).result(timeout)
            except grpc.FutureTimeoutError:
                return

    def run(self, block: Block, keep_going: Callable[[Snapshot], bool]) -> BlockResult:
        """Run a block to its end. `keep_going` is called now and then; when it answers False the block ends early."""
        run = _BlockRun(block, self._calls, self._requests[block.model], self._deadline, self._credentials.metadata())
        pacer = threading.Thread(target=run.pace, name="pacer", daemon=True)
        pacer.start()
        while not run.drained.wait(PROGRESS_INTERVAL):
            if not keep_going(run.snapshot()):
                run.stop()
                if not run.drained.wait(STOP_GRACE):
                    run.abandon()
                    self.close()
                break
            run.check_limits()
        pacer.join()
        return run.result()

    def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        for channel in self._channels:
            channel.close()


class _BlockRun:
    """One block under way. Its methods run on the pacer's, gRPC's, and the process's main thread."""

    def __init__(
        self,
        block: Block,
        calls: Sequence[Infer],
        requests: tuple[bytes, ...],
        deadline: float,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._block = block
        self._calls = calls
        self._requests = requests
        self._deadline = deadline
        self._metadata = metadata
        self._planned = (
            planned_times(block.load, block.limits, block.warm_up, generator_for(block.seed, "schedule", block.round))
            if isinstance(block.load, OpenLoop)
            else None
        )
        self._sent = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._abandoned = False
        self.drained = threading.Event()
        self._start = clock()
        self._end = 0.0
        self._recorder = Recorder(self._start + block.warm_up)

    def pace(self) -> None:
        """Send what is not triggered by an answer: a closed loop's first queries, or all of an open loop's."""
        calls = self._calls
        if isinstance(self._block.load, ClosedLoop):
            for slot in range(self._block.load.concurrency):
                # A slot keeps its channel: gRPC's thread of a channel ends, at a cost, whenever nothing is in flight.
                self._send(calls[slot % len(calls)], clock())
            return
        assert self._planned is not None
        for number, offset in enumerate(self._planned.tolist()):
            due = self._start + offset
            wait = due - clock()
            if self._stopped.wait(wait) if wait > 0 else self._stopped.is_set():
                return
            self._send(calls[number % len(calls)], due)
        self.stop()

    def stop(self) -> None:
        """Send nothing more. What is in flight is still waited for, so that no slow query is left out."""
        with self._lock:
            if not self._stopped.is_set():
                self._end = clock()
                self._stopped.set()
            if not self._in_flight:
                self.drained.set()

    def abandon(self) -> None:
        """Record nothing more: the calls still in flight are about to be cancelled."""
        self._abandoned = True
        self.drained.set()

    def check_limits(self) -> None:
        """Stop once enough was measured. A closed loop checks at every answer; this is for when none comes."""
        elapsed = clock() - self._recorder.window_start
        queries = self._recorder.queries
        limits = self._block.limits
        if limits.exceeded(elapsed, queries) or (self._planned is None and limits.reached(elapsed, queries)):
            self.stop()

    def snapshot(self) -> Snapshot:
        """How the block stands."""
        recorder = self._recorder
        recorder.fold()
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
        """What was measured, once drained."""
        recorder = self._recorder
        finished = self._block.limits.reached(self._end - recorder.window_start, recorder.queries)
        return recorder.result(self._block.model, self._block.load, self._end, finished and not self._abandoned)

    def _send(self, call: Infer, planned: float) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._in_flight += 1
            number = self._sent
            self._sent += 1
        sent = clock()
        future = call.future(
            self._requests[number % len(self._requests)], timeout=self._deadline, metadata=self._metadata
        )
        future.add_done_callback(partial(self._ended, call, planned, sent))

    def _ended(self, call: Infer, planned: float, sent: float, future: grpc.Call) -> None:
        ended = clock()
        if self._abandoned:
            return
        status = future.code().name
        self._recorder.record(planned, sent, ended, status)
        if status != OK:
            self._recorder.details.setdefault(status, future.details() or "")
        if self._planned is None:
            self.check_limits()
            self._send(call, clock())
        with self._lock:
            self._in_flight -= 1
            if not self._in_flight and self._stopped.is_set():
                self.drained.set()
