"""Counters of one model since it was loaded, with Triton's meanings: counts of requests, samples and batches, sums of
nanoseconds. Thread-safe."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from serving.server.batcher import Timings


@dataclass(frozen=True)
class Duration:
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def plus(self, ns: int, count: int = 1) -> "Duration":
        return Duration(self.count + count, self.ns + ns * count)


@dataclass(frozen=True)
class BatchCounters:
    """Of the batches of one size."""

    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


@dataclass(frozen=True)
class Counters:
    """inference_count counts samples, execution_count batches; the durations count requests."""

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    batches: dict[int, BatchCounters] = field(default_factory=dict)


class Statistics:
    """Records batches and failures; ``snapshot`` gives the counters at one moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = Counters()
        self._batches: defaultdict[int, BatchCounters] = defaultdict(BatchCounters)

    def record_batch(self, timings: Sequence[Timings]) -> None:
        """One executed batch: one Timings a request; they differ in queue_ns only."""
        batch, requests = timings[0], len(timings)
        compute_ns = batch.compute_input_ns + batch.compute_infer_ns + batch.compute_output_ns
        queue_ns = sum(one.queue_ns for one in timings)
        with self._lock:
            now = self._counters
            self._counters = replace(
                now,
                inference_count=now.inference_count + batch.batch_size,
                execution_count=now.execution_count + 1,
                last_inference_ms=time.time_ns() // 1_000_000,
                success=Duration(now.success.count + requests, now.success.ns + queue_ns + compute_ns * requests),
                queue=Duration(now.queue.count + requests, now.queue.ns + queue_ns),
                compute_input=now.compute_input.plus(batch.compute_input_ns, requests),
                compute_infer=now.compute_infer.plus(batch.compute_infer_ns, requests),
                compute_output=now.compute_output.plus(batch.compute_output_ns, requests),
            )
            of_size = self._batches[batch.batch_size]
            self._batches[batch.batch_size] = BatchCounters(
                of_size.compute_input.plus(batch.compute_input_ns),
                of_size.compute_infer.plus(batch.compute_infer_ns),
                of_size.compute_output.plus(batch.compute_output_ns),
            )

    def record_failure(self, ns: int) -> None:
        """A request that was admitted and not answered, ns after it was queued."""
        with self._lock:
            self._counters = replace(self._counters, fail=self._counters.fail.plus(ns))

    def snapshot(self) -> Counters:
        with self._lock:
            return replace(self._counters, batches=dict(self._batches))
