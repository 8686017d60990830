"""Counts what one version of a model has computed since it was loaded, in Triton's terms.

Triton counts samples (inference_count), batches (execution_count), and the nanoseconds that requests spend in each
step. The histograms, which Triton lacks, add up over processes.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hangtag.serving.server.telemetry.histogram import (
    BATCH_SIZE_BOUNDS,
    SECONDS_BOUNDS,
    BucketHistogram,
    HistogramRecorder,
)

_COUNT_FROM = 256
"""Batches that are recorded before they are counted, unless somebody reads the counters earlier."""

_NO_SECONDS, _NO_BATCHES = BucketHistogram.empty(SECONDS_BOUNDS), BucketHistogram.empty(BATCH_SIZE_BOUNDS)


class StageTimings(NamedTuple):
    """What one member of a route answered of a request, and what that cost."""

    member: str
    """NAME or NAME@VERSION, as the route has it."""
    rows: tuple[int, ...]
    """The samples that it got, by their place in the request."""
    queue_ns: int
    compute_ns: int
    batch_size: int


class Timings(NamedTuple):  # a tuple, because creating one per request must be cheap
    """Nanoseconds that one request spent in each step, and the number of samples in its batch."""

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_size: int
    stages: tuple[StageTimings, ...] = ()
    """Of a request to a route: its members' parts, in their order."""
    unsure: int = 0
    """Of a request to a cascade: samples whose answer is that of a member that was not sure of it, because the next one
    had no time or no place for them."""

    @property
    def compute_ns(self) -> int:
        """Nanoseconds for joining the batch's inputs, ONNX Runtime, and splitting its outputs."""
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns


class BatchCost(NamedTuple):
    """Nanoseconds that one batch spent in each step, and its size."""

    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_size: int
    """In samples."""
    calls: int = 1

    @property
    def compute_ns(self) -> int:
        """Nanoseconds of all steps."""
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns


@dataclass(frozen=True)
class Duration:
    """Triton's StatisticDuration: how many times, and the nanoseconds of all of them together."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.count + other.count, self.ns + other.ns)


@dataclass(frozen=True)
class BatchCounters:
    """Triton's InferBatchStatistics: durations of the batches of one size, counted per batch."""

    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()

    def __add__(self, other: "BatchCounters") -> "BatchCounters":
        return BatchCounters(
            self.compute_input + other.compute_input,
            self.compute_infer + other.compute_infer,
            self.compute_output + other.compute_output,
        )


@dataclass(frozen=True)
class Counters:
    """The counters of one version at one moment.

    inference_count counts samples, execution_count batches, and each duration requests. ``fail`` has the requests that
    ended with an error, everything else those that were answered. last_inference_ms is Unix time. ``batches`` is by
    batch size. The histograms are of seconds per request, and of samples per batch.
    """

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
    request_seconds: BucketHistogram = _NO_SECONDS
    queue_seconds: BucketHistogram = _NO_SECONDS
    compute_seconds: BucketHistogram = _NO_SECONDS
    batch_sizes: BucketHistogram = _NO_BATCHES

    def __add__(self, other: "Counters") -> "Counters":
        """Add up the counters of one version in two processes."""
        sizes = {*self.batches, *other.batches}
        none = BatchCounters()
        return Counters(
            self.inference_count + other.inference_count,
            self.execution_count + other.execution_count,
            max(self.last_inference_ms, other.last_inference_ms),
            self.success + other.success,
            self.fail + other.fail,
            self.queue + other.queue,
            self.compute_input + other.compute_input,
            self.compute_infer + other.compute_infer,
            self.compute_output + other.compute_output,
            {size: self.batches.get(size, none) + other.batches.get(size, none) for size in sizes},
            self.request_seconds + other.request_seconds,
            self.queue_seconds + other.queue_seconds,
            self.compute_seconds + other.compute_seconds,
            self.batch_sizes + other.batch_sizes,
        )


class ModelStatistics:
    """Records batches and failures of one version. Thread-safe.

    The thread that computed a batch only appends its timings to a list. They are counted later, many batches at once,
    because counting a batch of one request takes as long as a part of its answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: deque[tuple[Sequence[int], BatchCost]] = deque()  # batches that are not counted yet
        self._inference_count = self._execution_count = self._last_inference_ns = 0
        self._fails = self._fail_ns = 0
        self._queue_ns = 0
        self._batches: dict[int, BatchCounters] = {}
        # Summed over requests: each of a batch waits for the whole batch, so sums over batches would be smaller.
        self._requests = 0
        self._input_ns = self._infer_ns = self._output_ns = 0
        self._request_seconds, self._queue_seconds, self._compute_seconds = (
            HistogramRecorder(SECONDS_BOUNDS),
            HistogramRecorder(SECONDS_BOUNDS),
            HistogramRecorder(SECONDS_BOUNDS),
        )
        self._batch_sizes = HistogramRecorder(BATCH_SIZE_BOUNDS)

    def record_batch(self, queue_ns: Sequence[int], cost: BatchCost) -> None:
        """Count an executed batch. queue_ns: how long each of its requests waited."""
        self._recorded.append((queue_ns, cost))
        self._last_inference_ns = time.time_ns()
        if len(self._recorded) >= _COUNT_FROM:
            with self._lock:
                self._count_recorded()

    def _count_recorded(self) -> None:
        batches = [self._recorded.popleft() for _ in range(len(self._recorded))]
        if not batches:
            return
        requests = np.array([len(waits) for waits, _ in batches])
        queue_ns = np.array([ns for waits, _ in batches for ns in waits])
        input_ns, infer_ns, output_ns, sizes = np.array([cost[:4] for _, cost in batches]).T
        compute_ns = np.repeat(input_ns + infer_ns + output_ns, requests)
        self._inference_count += int(sizes.sum())
        self._execution_count += len(batches)
        self._requests += int(requests.sum())
        self._queue_ns += int(queue_ns.sum())
        self._input_ns += int(input_ns @ requests)
        self._infer_ns += int(infer_ns @ requests)
        self._output_ns += int(output_ns @ requests)
        for size in np.unique(sizes).tolist():
            of_size = sizes == size
            count = int(of_size.sum())
            self._batches[size] = self._batches.get(size, BatchCounters()) + BatchCounters(
                Duration(count, int(input_ns[of_size].sum())),
                Duration(count, int(infer_ns[of_size].sum())),
                Duration(count, int(output_ns[of_size].sum())),
            )
        self._batch_sizes.add_all(sizes)
        self._compute_seconds.add_all(compute_ns / 1e9)
        self._queue_seconds.add_all(queue_ns / 1e9)
        self._request_seconds.add_all((queue_ns + compute_ns) / 1e9)

    def record_failure(self, ns: int) -> None:
        """Count a request that ended with an error ``ns`` after it arrived. Called by ``Engine.record_failure``."""
        with self._lock:
            self._fails += 1
            self._fail_ns += ns

    def snapshot(self) -> Counters:
        """The counters as they are now."""
        with self._lock:
            self._count_recorded()
            requests, compute_ns = self._requests, self._input_ns + self._infer_ns + self._output_ns
            return Counters(
                inference_count=self._inference_count,
                execution_count=self._execution_count,
                last_inference_ms=self._last_inference_ns // 1_000_000,
                success=Duration(requests, self._queue_ns + compute_ns),
                fail=Duration(self._fails, self._fail_ns),
                queue=Duration(requests, self._queue_ns),
                compute_input=Duration(requests, self._input_ns),
                compute_infer=Duration(requests, self._infer_ns),
                compute_output=Duration(requests, self._output_ns),
                batches=dict(self._batches),
                request_seconds=self._request_seconds.histogram(),
                queue_seconds=self._queue_seconds.histogram(),
                compute_seconds=self._compute_seconds.histogram(),
                batch_sizes=self._batch_sizes.histogram(),
            )
