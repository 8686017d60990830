"""Counts what one version of a model has computed since it was loaded, in Triton's terms.

Triton counts samples (inference_count), batches (execution_count), and the nanoseconds that requests spend in each
step. The histograms, which Triton lacks, add up over processes.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.telemetry.counts import (
    BATCH_SIZE_BOUNDS,
    SECONDS_BOUNDS,
    BucketHistogram,
    HistogramRecorder,
    Mergeable,
    merged_by,
)

_COUNT_FROM = 256
"""Recorded batches are counted when there are this many, or earlier if the counters are read."""

_NO_SECONDS, _NO_BATCHES = BucketHistogram.empty(SECONDS_BOUNDS), BucketHistogram.empty(BATCH_SIZE_BOUNDS)


class StageTimings(NamedTuple):
    """The samples of a request that one member of a route answered, and how long each step took."""

    member: str
    """The member's name, NAME or NAME@VERSION, as in the route's file."""
    rows: tuple[int, ...]
    """Indices, in the request, of the samples that the member got."""
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
    """The members' parts of a request to a route, in order."""
    low_confidence: int = 0
    """The number of samples of a request to a cascade that got a member's unsure answer, because the next member had no
    time for them or no room in its queue."""

    @property
    def compute_ns(self) -> int:
        """Nanoseconds to join the batch's inputs, to run ONNX Runtime, and to split the batch's outputs."""
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns


class BatchCost(NamedTuple):
    """Nanoseconds that one batch spent in each step, and its size."""

    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_size: int
    """The number of samples in the batch."""
    calls: int = 1
    member: str = ""
    """The only member that answered the calls to a route. Empty for calls to a model."""

    @property
    def compute_ns(self) -> int:
        """Nanoseconds of all steps."""
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns


@dataclass(frozen=True)
class Duration(Mergeable):
    """Triton's StatisticDuration: the number of times, and the total nanoseconds."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True)
class BatchCounters(Mergeable):
    """Triton's InferBatchStatistics: durations of the batches of one size, counted per batch."""

    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


@dataclass(frozen=True)
class Counters(Mergeable):
    """The counters of one version at one moment.

    inference_count counts samples, execution_count counts batches, and each duration counts requests. ``fail`` covers
    requests that ended with an error. All other counters cover answered requests. last_inference_ms is Unix time. The
    keys of ``batches`` are batch sizes. The histograms are of seconds per request and of samples per batch.
    """

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = field(default=0, metadata=merged_by(max))
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


class ModelStatistics:
    """Records batches and failures of one version. Thread-safe.

    The thread that computed a batch only appends the batch's timings to a list. Timings are counted later, for many
    batches at once, because counting a batch of one request would add a noticeable share to the time of its answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: deque[tuple[Sequence[int], BatchCost]] = deque()  # batches that are not counted yet
        self.last_inference_ns = 0
        """When the last batch was computed, in nanoseconds of Unix time; 0 before the first."""
        self._fails = self._fail_ns = 0
        # For each batch size, the number of batches, and the nanoseconds that the batches spent in each of three steps.
        self._batches: defaultdict[int, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(4, np.int64))
        # The number of requests, and the nanoseconds in the queue and in each step. The nanoseconds are summed over
        # requests, which each wait for a whole batch. Sums over batches would be smaller.
        self._requests = np.zeros(5, np.int64)
        self._request_seconds = HistogramRecorder(SECONDS_BOUNDS)
        self._queue_seconds = HistogramRecorder(SECONDS_BOUNDS)
        self._compute_seconds = HistogramRecorder(SECONDS_BOUNDS)
        self._batch_sizes = HistogramRecorder(BATCH_SIZE_BOUNDS)

    def record_batch(self, queue_ns: Sequence[int], cost: BatchCost) -> None:
        """Count a computed batch. ``queue_ns`` says how long each request of the batch waited."""
        self._recorded.append((queue_ns, cost))
        self.last_inference_ns = time.time_ns()
        if len(self._recorded) >= _COUNT_FROM:
            with self._lock:
                self._count_recorded()

    def _count_recorded(self) -> None:
        batches = [self._recorded.popleft() for _ in range(len(self._recorded))]
        if not batches:
            return
        requests = np.array([len(waits) for waits, _ in batches])
        queue_ns = np.array([ns for waits, _ in batches for ns in waits])
        costs = np.array([cost[:4] for _, cost in batches])
        steps, sizes = costs[:, :3], costs[:, 3]
        compute_ns = np.repeat(steps.sum(axis=1), requests)
        self._requests += (requests.sum(), queue_ns.sum(), *(requests @ steps))
        for size in np.unique(sizes).tolist():
            of_size = steps[sizes == size]
            self._batches[size] += (len(of_size), *of_size.sum(axis=0))
        self._batch_sizes.add_all(sizes)
        self._compute_seconds.add_all(compute_ns / 1e9)
        self._queue_seconds.add_all(queue_ns / 1e9)
        self._request_seconds.add_all((queue_ns + compute_ns) / 1e9)

    def record_failure(self, ns: int) -> None:
        """Count a request that ended with an error ``ns`` after its arrival. ``Engine.record_failure`` calls this."""
        with self._lock:
            self._fails += 1
            self._fail_ns += ns

    def snapshot(self) -> Counters:
        """Return the current counters."""
        with self._lock:
            self._count_recorded()
            requests, queue_ns, *steps_ns = self._requests.tolist()
            batches = {size: totals.tolist() for size, totals in self._batches.items()}
            compute_input, compute_infer, compute_output = (Duration(requests, ns) for ns in steps_ns)
            return Counters(
                inference_count=sum(size * count for size, (count, *_) in batches.items()),
                execution_count=sum(count for count, *_ in batches.values()),
                last_inference_ms=self.last_inference_ns // 1_000_000,
                success=Duration(requests, queue_ns + sum(steps_ns)),
                fail=Duration(self._fails, self._fail_ns),
                queue=Duration(requests, queue_ns),
                compute_input=compute_input,
                compute_infer=compute_infer,
                compute_output=compute_output,
                batches={
                    size: BatchCounters(*(Duration(count, ns) for ns in steps))
                    for size, (count, *steps) in batches.items()
                },
                request_seconds=self._request_seconds.histogram(),
                queue_seconds=self._queue_seconds.histogram(),
                compute_seconds=self._compute_seconds.histogram(),
                batch_sizes=self._batch_sizes.histogram(),
            )
