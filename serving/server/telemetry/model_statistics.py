"""Counts what one version of a model has computed since it was loaded. The counts of several processes can be added.
Triton has the same counts, but no histograms."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import add
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

_COUNT_FROM = 256
"""Batches are recorded first, and counted when this many are recorded or the counters are read."""

SECONDS_BOUNDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


def first(one: Any, other: Any) -> Any:
    """Merge a field that is not a count: return the first process's value, or the second's if the first is None."""
    return other if one is None else one


def merge(one: Any, other: Any) -> Any:
    """Combine two processes' values of a field that declares no merge function of its own. Numbers are added, including
    numbers in tuples. Mappings are joined, and values of the same key are combined. The merge of two texts is the
    non-empty text, and the merge of two booleans is a logical or. None is ignored."""
    match one:
        case None:
            return other
        case bool() | str():
            return one or other
        case Mapping():
            return {**one, **other, **{key: merge(one[key], other[key]) for key in one.keys() & other.keys()}}
        case tuple():
            return tuple(map(add, one, other))
        case _:
            return one if other is None else one + other


class Mergeable:
    """Base of dataclasses whose instances from two processes are combined by ``+``. Each field is combined by the
    function under the key ``merge`` of its metadata, or by this module's `merge` if there is none."""

    def __add__(self, other: Self) -> Self:
        values = (
            each.metadata.get("merge", merge)(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        )
        return type(self)(*values)


@dataclass(frozen=True)
class BucketHistogram(Mergeable):
    """The counts of a histogram at one moment. The bounds are fixed, so that histograms also add up over machines."""

    bounds: tuple[float, ...] = field(metadata={"merge": first})
    """Inclusive upper bounds of the buckets, ascending."""
    counts: tuple[int, ...]
    """Number of values in each bucket (not cumulative); the last entry counts values above the highest bound."""
    sum: float

    @classmethod
    def of(cls, bounds: tuple[float, ...], values: npt.ArrayLike = ()) -> "BucketHistogram":
        array = np.asarray(values, np.float64)
        counts = np.bincount(np.searchsorted(bounds, array), minlength=len(bounds) + 1)
        return cls(bounds, tuple(counts.tolist()), float(array.sum()))

    @property
    def count(self) -> int:
        return sum(self.counts)


_NO_SECONDS, _NO_BATCHES = BucketHistogram.of(SECONDS_BOUNDS), BucketHistogram.of(BATCH_SIZE_BOUNDS)


class StageTimings(NamedTuple):
    """The samples of a request that one member of a route answered, and how long each step took."""

    member: str
    """The member's name, NAME or NAME@VERSION, as in the route's file."""
    rows: tuple[int, ...]
    """The indices of the member's samples in the request."""
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
    """For a request to a route: the timings of each member that computed samples of the request, in order."""
    low_confidence: int = 0
    """See `RouteCounts.low_confidence`."""

    @property
    def compute_ns(self) -> int:
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns


class BatchCost(NamedTuple):
    """Nanoseconds that one batch spent in each step, and its size."""

    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_size: int
    calls: int = 1
    member: str = ""
    """The name of the route's member, if one member alone answered the calls to a route."""

    @property
    def compute_ns(self) -> int:
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
    """The counters of one version at one moment: of samples (inference_count), batches (execution_count, batch_sizes)
    and requests (all other durations and histograms). ``fail`` counts requests that ended with an error, and the others
    count answered requests. last_inference_ms is Unix time. The keys of ``batches`` are batch sizes."""

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = field(default=0, metadata={"merge": max})
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
    """Records batches and failures of one version. Thread-safe. The thread that computed a batch only appends its
    timings to a list, because counting after each batch would noticeably delay the answers to small requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: deque[tuple[Sequence[int], BatchCost]] = deque()  # batches that are not counted yet
        self.last_inference_ns = 0
        """When the last batch was computed, in nanoseconds of Unix time; 0 before the first."""
        self._fails = self._fail_ns = 0
        self._counters = Counters()  # without the recorded batches and the failures

    def record_batch(self, queue_ns: Sequence[int], cost: BatchCost) -> None:
        """Count a computed batch. ``queue_ns`` says how long each request of the batch waited."""
        self._recorded.append((queue_ns, cost))
        self.last_inference_ns = time.time_ns()
        if len(self._recorded) >= _COUNT_FROM:
            with self._lock:
                self._count_recorded()

    def _count_recorded(self) -> None:
        batches = [self._recorded.popleft() for _ in range(len(self._recorded))]
        if batches:
            self._counters += _counters(batches)

    def record_failure(self, ns: int) -> None:
        """Count a request that ended with an error, ``ns`` nanoseconds after its arrival."""
        with self._lock:
            self._fails += 1
            self._fail_ns += ns

    def snapshot(self) -> Counters:
        with self._lock:
            self._count_recorded()
            fail = Duration(self._fails, self._fail_ns)
            return replace(self._counters, fail=fail, last_inference_ms=self.last_inference_ns // 1_000_000)


def _counters(batches: Sequence[tuple[Sequence[int], BatchCost]]) -> Counters:
    """Count computed batches. Each item has the waiting time of each request of a batch, and the cost of the batch. A
    request's durations are those of its whole batch, because the request takes as long as the batch."""
    requests = np.array([len(waits) for waits, _ in batches])
    queue_ns = np.array([ns for waits, _ in batches for ns in waits])
    costs = np.array([cost[:4] for _, cost in batches])
    steps, sizes = costs[:, :3], costs[:, 3]
    compute_ns = np.repeat(steps.sum(axis=1), requests)
    by_size = {size: steps[sizes == size] for size in np.unique(sizes).tolist()}
    count = len(queue_ns)
    queue, *computed = (Duration(count, int(ns)) for ns in (queue_ns.sum(), *(requests @ steps)))
    return Counters(
        inference_count=int(sizes.sum()),
        execution_count=len(batches),
        success=Duration(count, int(queue_ns.sum() + compute_ns.sum())),
        queue=queue,
        compute_input=computed[0],
        compute_infer=computed[1],
        compute_output=computed[2],
        batches={
            size: BatchCounters(*(Duration(len(of_size), ns) for ns in of_size.sum(axis=0).tolist()))
            for size, of_size in by_size.items()
        },
        request_seconds=BucketHistogram.of(SECONDS_BOUNDS, (queue_ns + compute_ns) / 1e9),
        queue_seconds=BucketHistogram.of(SECONDS_BOUNDS, queue_ns / 1e9),
        compute_seconds=BucketHistogram.of(SECONDS_BOUNDS, compute_ns / 1e9),
        batch_sizes=BucketHistogram.of(BATCH_SIZE_BOUNDS, sizes),
    )
