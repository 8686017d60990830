"""Turn two snapshots of a server's counters, which only grow, into rates, means and percentiles of each model."""

import itertools
import math
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from hangtag.errors import UserError
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.address import AddressError
from hangtag.serving.connection import proxy

Version = tuple[str, str]
"""A model's name and version."""
Buckets = dict[float, float]
"""Upper bound in seconds -> number of requests that took at most so long: a Prometheus histogram."""

Stage = tuple[str, int, str]
"""A route's name, the stage from 1, and the member that answered in it."""

METRICS_TIMEOUT = 5.0
_PERCENTILES = (0.5, 0.99)


class MetricsError(UserError):
    """The server's metrics cannot be read."""


@dataclass(frozen=True)
class Metrics:
    """What only the server's Prometheus metrics contain, not the protocol's statistics."""

    queued: Mapping[Version, float] = field(default_factory=dict)
    max_queue_size: Mapping[Version, float] = field(default_factory=dict)
    latencies: Mapping[Version, Buckets] = field(default_factory=dict)
    workers: float = 0
    workers_wanted: float = 0
    transports: Mapping[str, float] = field(default_factory=dict)
    """Processes by the name of the transport that they serve with."""
    stage_requests: Mapping[Stage, float] = field(default_factory=dict)
    stage_samples: Mapping[Stage, float] = field(default_factory=dict)
    copies: float = 0
    """Requests that shadows of routes answered, and their samples."""
    copied_samples: float = 0


@dataclass(frozen=True)
class Snapshot:
    """A server's counters at one time, in seconds on a monotonic clock."""

    time: float
    statistics: Mapping[Version, pb.ModelStatistics]
    metrics: Metrics | None = None

    @classmethod
    def from_statistics(
        cls, time: float, statistics: Iterable[pb.ModelStatistics], metrics: Metrics | None = None
    ) -> "Snapshot":
        return cls(time, {(model.name, model.version): model for model in statistics}, metrics)


@dataclass(frozen=True)
class Activity:
    """One model version between two snapshots.

    Rates are per second. Times are in milliseconds, means over the requests answered. A value is None if no request was
    answered, or if it comes from metrics that were not fetched.
    """

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


def activities(before: Snapshot, after: Snapshot) -> list[Activity]:
    """Compute the activity of every version in the second snapshot; a new or reloaded one counts from zero."""
    return [_activity(key, before, after) for key in sorted(after.statistics)]


def _activity(key: Version, before: Snapshot, after: Snapshot) -> Activity:
    seconds = after.time - before.time
    now, then = after.statistics[key], before.statistics.get(key, pb.ModelStatistics())
    if now.execution_count < then.execution_count:
        then = pb.ModelStatistics()  # the model was reloaded
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
    p50, p99 = (quantile(between, fraction) for fraction in _PERCENTILES)
    return p50, p99


def quantile(buckets: Buckets, fraction: float) -> float | None:
    """Estimate a quantile in milliseconds, linear within a bucket as Prometheus' histogram_quantile is.

    Values above the last finite bound count as that bound. None for an empty histogram.
    """
    ordered = sorted(buckets.items())
    if not ordered or ordered[-1][1] <= 0:
        return None
    rank = fraction * ordered[-1][1]
    for (low, below), (high, cumulative) in itertools.pairwise([(0.0, 0.0), *ordered]):
        if cumulative >= rank:
            if high == float("inf"):
                return low * 1000
            inside = (rank - below) / (cumulative - below) if cumulative > below else 0.0
            return (low + (high - low) * inside) * 1000
    return None


def fetch_metrics(url: str) -> Metrics:
    """Fetch and parse the Prometheus metrics of a hangtag server.

    Raises:
        MetricsError: the URL is not http or https, nothing answers there, or the answer is not Prometheus' format.
        AddressError: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names no proxy.
    """
    if not url.startswith(("http://", "https://")):
        raise MetricsError(f"{url!r} is not the address of metrics: http://HOST:PORT/metrics")
    try:
        between = proxy.for_url(url)
        proxies = {} if between is None else {url.partition(":")[0]: between.url}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        with opener.open(url, timeout=METRICS_TIMEOUT) as response:
            return parse_metrics(response.read().decode())
    except AddressError:
        raise
    except Exception as error:  # a server may answer anything, and the parser raises many kinds of it
        raise MetricsError(
            f"no metrics at {url}: {str(error) or type(error).__name__}. Give --metrics the server's port for metrics, "
            "8002 unless 'hangtag serve --metrics-port' set another"
        ) from error


def parse_metrics(text: str) -> Metrics:
    """Read the metrics that `hangtag top` shows from Prometheus' text format.

    Raises:
        ValueError, LookupError, OverflowError: the text is not in that format.
    """
    queued: dict[Version, float] = {}
    limits: dict[Version, float] = {}
    latencies: dict[Version, Buckets] = {}
    transports: dict[str, float] = {}
    stages: dict[str, dict[Stage, float]] = {"requests": {}, "samples": {}}
    copies = copied_samples = 0.0
    unlabelled: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not math.isfinite(sample.value):
                continue  # the server does not know it
            key = (sample.labels.get("model", ""), sample.labels.get("version", ""))
            if sample.name == "nv_inference_pending_request_count":
                queued[key] = sample.value
            elif sample.name == "hangtag_max_queue_size":
                limits[key] = sample.value
            elif sample.name == "hangtag_request_seconds_bucket" and sample.labels["code"] == "OK":
                latencies.setdefault(key, {})[float(sample.labels["le"])] = sample.value
            elif sample.name == "hangtag_transport":
                name = sample.labels["transport"]
                transports[name] = transports.get(name, 0) + sample.value
            elif sample.name in ("hangtag_route_requests_total", "hangtag_route_samples_total"):
                stage = (key[0], int(sample.labels["stage"]), sample.labels["member"])
                stages[sample.name.split("_")[2]][stage] = sample.value
            elif sample.name == "hangtag_route_shadow_requests_total" and sample.labels["outcome"] == "compared":
                copies += sample.value
            elif sample.name == "hangtag_route_shadow_samples_total":
                copied_samples += sample.value
            elif not sample.labels:
                unlabelled[sample.name] = sample.value
    return Metrics(
        queued,
        limits,
        latencies,
        unlabelled.get("hangtag_workers", 0),
        unlabelled.get("hangtag_workers_wanted", 0),
        transports,
        stages["requests"],
        stages["samples"],
        copies,
        copied_samples,
    )
