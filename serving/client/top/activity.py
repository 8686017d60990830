"""Computes the activity of models and routes from two snapshots of a server's counters. The counters only grow."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from hangtag.errors import UserError
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.address import is_http
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import connect
from hangtag.serving.connection.http.http_methods import METRICS
from hangtag.serving.credentials import Credentials, CredentialsError

Version = tuple[str, str]
"""A model's name and version."""
Row = dict[str, Any]
"""The activity of a model version: the model's name, the version, and the values that ``Interval.rows`` describes."""
Metrics = Mapping[tuple[Any, ...], float]
"""Maps a metric's name with its values of the labels in ``_READ`` to the metric's sum over all other labels."""

_VERSION = {"model": str, "version": str}
_STAGE = {"model": str, "stage": int, "member": str}
_READ: Mapping[str, Mapping[str, Callable[[str], object]]] = {
    "nv_inference_pending_request_count": _VERSION,
    "hangtag_max_queue_size": _VERSION,
    "hangtag_request_seconds_bucket": {**_VERSION, "code": str, "le": float},
    "hangtag_workers": {},
    "hangtag_workers_wanted": {},
    "hangtag_transport": {"transport": str},
    "hangtag_route_requests_total": _STAGE,
    "hangtag_route_samples_total": _STAGE,
    "hangtag_route_shadow_requests_total": {"outcome": str},
    "hangtag_route_shadow_samples_total": {},
}
"""The metrics that ``top`` shows, each with the labels to read and the types of their values."""
METRICS_TIMEOUT = 5.0


class MetricsError(UserError):
    """The server's metrics cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """A server's counters at one moment. ``time`` is in seconds on a monotonic clock."""

    time: float
    statistics: Mapping[Version, pb.ModelStatistics]
    metrics: Metrics | None = None


@dataclass(frozen=True)
class Interval:
    """What happened between two snapshots. The counters of a new or reloaded version begin at zero."""

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        return self.after.time - self.before.time

    @cached_property
    def growth(self) -> Metrics:
        """The growth of each metric; empty if the metrics were not fetched."""
        before = self.before.metrics or {}
        return {series: value - before.get(series, 0) for series, value in (self.after.metrics or {}).items()}

    @cached_property
    def rows(self) -> list[Row]:
        """The activity of every model version that the later snapshot contains.

        ``calls``, ``samples`` and ``failures`` are rates per second. ``queue_ms`` and ``compute_ms`` are averages over
        the answered requests. A value is missing if no request was answered, or if metrics were not fetched.
        """
        return [self._row(key) for key in sorted(self.after.statistics)]

    def _row(self, key: Version) -> Row:
        grown, then = (_counts(one.statistics.get(key, pb.ModelStatistics())) for one in (self.after, self.before))
        if grown["batches"] >= then["batches"]:  # otherwise, the model was reloaded
            grown.subtract(then)
        row: Row = {"model": key[0], "version": key[1]}
        row |= {name: grown[name] / self.seconds for name in ("calls", "samples", "failures")}
        row["batch_size"] = grown["samples"] / grown["batches"] if grown["batches"] else None
        for part in ("queue", "compute"):
            row[f"{part}_ms"] = grown[f"{part}_ns"] / grown["calls"] / 1e6 if grown["calls"] else None
        if self.after.metrics is not None:
            series = labelled(self.growth, "hangtag_request_seconds_bucket", *key, "OK")
            buckets = [(labels[-1], count) for labels, count in sorted(series.items())]
            row |= {"p50_ms": quantile(buckets, 0.5), "p99_ms": quantile(buckets, 0.99)}
            row["queued"] = int(self.after.metrics.get(("nv_inference_pending_request_count", *key), 0))
            row["max_queue_size"] = int(self.after.metrics.get(("hangtag_max_queue_size", *key), 0))
        return {name: value for name, value in row.items() if value is not None}

    def callers(self) -> tuple[float, float]:
        """Compute the calls and samples per second. If metrics were fetched, leave out the calls made by routes."""

        def sent(total: float, unit: str, *outcome: str) -> float:
            inside = sum(labelled(self.growth, f"hangtag_route_{unit}_total").values())
            inside += self.growth.get((f"hangtag_route_shadow_{unit}_total", *outcome), 0)
            # A route counts an answer shortly before its member counts it, so the difference may be negative.
            return max(0.0, total - inside / self.seconds)

        calls = sent(sum(row["calls"] for row in self.rows), "requests", "compared")
        return calls, sent(sum(row["samples"] for row in self.rows), "samples")

    def shares(self) -> dict[str, dict[str, float]]:
        """For each route that answered, compute the share of its samples, 0 to 1, that each member received."""
        shares: dict[str, dict[str, float]] = defaultdict(dict)
        for (_, route, _, member), count in sorted(labelled(self.growth, "hangtag_route_samples_total").items()):
            total = sum(labelled(self.growth, "hangtag_route_samples_total", route, 1).values())
            if total > 0:
                shares[route][member] = count / total
        return shares

    def transports(self) -> dict[str, float]:
        """Name of a transport -> number of processes that serve with this transport."""
        return {name: count for (_, name), count in labelled(self.after.metrics or {}, "hangtag_transport").items()}


def _counts(model: pb.ModelStatistics) -> Counter[str]:
    times = model.inference_stats
    return Counter(
        calls=times.success.count,
        failures=times.fail.count,
        samples=model.inference_count,
        batches=model.execution_count,
        queue_ns=times.queue.ns,
        compute_ns=times.compute_input.ns + times.compute_infer.ns + times.compute_output.ns,
    )


def labelled(metrics: Metrics, name: str, *labels: object) -> Metrics:
    """Return the series of a metric in which the first labels have these values."""
    start = (name, *labels)
    return {series: value for series, value in metrics.items() if series[: len(start)] == start}


def quantile(buckets: Sequence[tuple[float, float]], fraction: float) -> float | None:
    """Estimate a quantile in milliseconds, as Prometheus' histogram_quantile does; None for an empty histogram.

    Each bucket has an upper bound in seconds, and the number of requests that took at most that time.
    """
    bounds = [(0.0, 0.0), *buckets]
    rank = fraction * bounds[-1][1]
    for (low, below), (high, cumulative) in itertools.pairwise(bounds):
        if cumulative >= rank > below:
            width = 0.0 if math.isinf(high) else high - low
            return (low + width * (rank - below) / (cumulative - below)) * 1000
    return None


def fetch_metrics(url: str, credentials: Credentials) -> Metrics:
    """Fetch and parse a server's metrics. With ``tls_ca``, the token is sent only over TLS.

    Raises MetricsError, and the exceptions of ``connect``.
    """
    address, _, path = url.rpartition("/")
    if not is_http(address):
        raise MetricsError(f"{url!r} is not an address of metrics: write http://HOST:PORT/metrics")
    if credentials.tls_ca is not None and not url.lower().startswith("https:"):
        credentials = Credentials()
    with closing(connect(address, METRICS_TIMEOUT, credentials, ConnectionOptions(retries=0))) as connection:
        request: Any = path
        try:
            return _parsed(connection.call(METRICS, request))
        except CredentialsError:
            raise
        except Exception as error:  # the parser raises many kinds of exceptions
            raise MetricsError(
                f"no metrics at {url}: {str(error) or type(error).__name__}. Give --metrics the server's port for "
                "metrics, which is 8002 unless 'hangtag serve --metrics-port' changed it"
            ) from error


def _parsed(text: str) -> Metrics:
    """Read the metrics of ``_READ`` from Prometheus' text format. May raise any exception."""
    metrics: dict[tuple[Any, ...], float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            types = _READ.get(sample.name)
            if types is not None and math.isfinite(sample.value):  # NaN: the server does not know the value
                labels = (read(sample.labels[label]) for label, read in types.items())
                metrics[sample.name, *labels] += sample.value
    return metrics
