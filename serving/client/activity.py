"""What a server did between two looks at it: from counters that only grow to rates, means and percentiles."""

import itertools
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from hangtag.protos import inference_pb2 as pb

Version = tuple[str, str]
"""A model's name and version."""
Buckets = dict[float, float]
"""Upper bound (seconds) -> how many requests took at most so long."""

METRICS_TIMEOUT = 5.0
_PERCENTILES = (0.5, 0.99)


class MetricsError(Exception):
    """The metrics cannot be had, in one sentence."""


@dataclass(frozen=True)
class Metrics:
    """What the statistics do not tell."""

    queued: Mapping[Version, float] = field(default_factory=dict)
    max_queue_size: Mapping[Version, float] = field(default_factory=dict)
    latencies: Mapping[Version, Buckets] = field(default_factory=dict)
    workers: float = 0
    workers_wanted: float = 0


@dataclass(frozen=True)
class Look:
    """A server at one moment; ``at`` is in seconds on any clock that does not jump."""

    at: float
    statistics: Mapping[Version, pb.ModelStatistics]
    metrics: Metrics | None = None

    @classmethod
    def of(cls, at: float, statistics: Iterable[pb.ModelStatistics], metrics: Metrics | None = None) -> "Look":
        return cls(at, {(one.name, one.version): one for one in statistics}, metrics)


@dataclass(frozen=True)
class Activity:
    """One version between two looks. Rates are per second, times in milliseconds and means over the requests answered;
    None where nothing was answered, or the metrics were not asked."""

    model: str
    version: str
    calls: float
    samples: float
    failures: float
    batch_size: float | None
    queue_ms: float | None
    compute_ms: float | None
    p50_ms: float | None = None
    p99_ms: float | None = None
    queued: int | None = None
    max_queue_size: int | None = None


def activities(before: Look, after: Look) -> list[Activity]:
    """Of every version that serves at the second look. One that is new, or was loaded again, counts from nothing."""
    return [_activity(key, before, after) for key in sorted(after.statistics)]


def _activity(key: Version, before: Look, after: Look) -> Activity:
    seconds = after.at - before.at
    now, then = after.statistics[key], before.statistics.get(key, pb.ModelStatistics())
    if now.execution_count < then.execution_count:
        then = pb.ModelStatistics()  # loaded again
    stats, old = now.inference_stats, then.inference_stats
    answered = stats.success.count - old.success.count
    batches = now.execution_count - then.execution_count
    compute_ns = sum(
        getattr(stats, part).ns - getattr(old, part).ns for part in ("compute_input", "compute_infer", "compute_output")
    )
    p50, p99 = _percentiles(key, before.metrics, after.metrics)
    return Activity(
        model=key[0],
        version=key[1],
        calls=answered / seconds,
        samples=(now.inference_count - then.inference_count) / seconds,
        failures=(stats.fail.count - old.fail.count) / seconds,
        batch_size=(now.inference_count - then.inference_count) / batches if batches else None,
        queue_ms=(stats.queue.ns - old.queue.ns) / answered / 1e6 if answered else None,
        compute_ms=compute_ns / answered / 1e6 if answered else None,
        p50_ms=p50,
        p99_ms=p99,
        queued=None if after.metrics is None else int(after.metrics.queued.get(key, 0)),
        max_queue_size=None if after.metrics is None else int(after.metrics.max_queue_size.get(key, 0)),
    )


def _percentiles(key: Version, before: Metrics | None, after: Metrics | None) -> tuple[float | None, float | None]:
    if before is None or after is None:
        return None, None
    then = before.latencies.get(key, {})
    between = {bound: count - then.get(bound, 0) for bound, count in after.latencies.get(key, {}).items()}
    p50, p99 = (quantile(between, part) for part in _PERCENTILES)
    return p50, p99


def quantile(buckets: Buckets, part: float) -> float | None:
    """In milliseconds, linear within a bucket as Prometheus' histogram_quantile; None where nothing was counted.

    What lies above the last finite bound counts as that bound.
    """
    ordered = sorted(buckets.items())
    if not ordered or ordered[-1][1] <= 0:
        return None
    rank = part * ordered[-1][1]
    for (low, below), (high, upto) in itertools.pairwise([(0.0, 0.0), *ordered]):
        if upto >= rank:
            if high == float("inf"):
                return low * 1000
            inside = (rank - below) / (upto - below) if upto > below else 0.0
            return (low + (high - low) * inside) * 1000
    return None


def fetch_metrics(url: str) -> Metrics:
    """What hangtag's metrics port tells at this address. Raises MetricsError."""
    if not url.startswith(("http://", "https://")):
        raise MetricsError(f"{url!r} is not the address of metrics: http://HOST:PORT/metrics")
    try:
        with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT) as response:  # noqa: S310 - checked above
            return parse_metrics(response.read().decode())
    except (OSError, ValueError) as error:
        raise MetricsError(f"no metrics at {url}: {error}") from error


def parse_metrics(text: str) -> Metrics:
    """From Prometheus' text format. Raises ValueError for anything else."""
    queued: dict[Version, float] = {}
    limits: dict[Version, float] = {}
    latencies: dict[Version, Buckets] = {}
    single: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.labels.get("model", ""), sample.labels.get("version", ""))
            if sample.name == "nv_inference_pending_request_count":
                queued[key] = sample.value
            elif sample.name == "hangtag_max_queue_size":
                limits[key] = sample.value
            elif sample.name == "hangtag_request_seconds_bucket" and sample.labels["code"] == "OK":
                latencies.setdefault(key, {})[float(sample.labels["le"])] = sample.value
            elif not sample.labels:
                single[sample.name] = sample.value
    return Metrics(
        queued,
        limits,
        latencies,
        single.get("hangtag_workers", 0),
        single.get("hangtag_workers_wanted", 0),
    )
