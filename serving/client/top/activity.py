"""From two snapshots of a server's counters, compute rates, means and percentiles of each model, the calls of routes to
their members, and the share of a route's samples that reached each member. The counters only grow.

A server counts a request to a route for the route and again for each member, so a sum over all models counts such a
request at least twice.
"""

import itertools
import math
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from hangtag.errors import UserError
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection import proxy
from hangtag.serving.credentials import Credentials

Version = tuple[str, str]
"""A model's name and version."""
Buckets = Mapping[float, float]
"""A Prometheus histogram: upper bound in seconds -> number of requests that took at most that time."""
Metrics = Mapping[tuple[Any, ...], float]
"""Figures that only the server's Prometheus metrics contain, not the protocol's statistics. A key is a metric's name,
followed by the values of the labels that ``_READ`` lists. A value is the sum over all other labels."""

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
"""Name of a metric -> its labels that are read, each with its type."""
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
class Activity:
    """One model version between two snapshots.

    Rates are per second. Times are in milliseconds, averaged over the answered requests. A value is None if no request
    was answered, or if the value comes from metrics that were not fetched.
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


@dataclass(frozen=True)
class Interval:
    """What happened between two snapshots. The counters of a new or reloaded version begin at zero."""

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        """The length of the interval."""
        return self.after.time - self.before.time

    @cached_property
    def growth(self) -> Metrics:
        """By how much each metric grew; empty if the metrics were not fetched."""
        before = self.before.metrics or {}
        return {series: value - before.get(series, 0) for series, value in (self.after.metrics or {}).items()}

    @cached_property
    def activities(self) -> list[Activity]:
        """The activity of every version in the second snapshot."""
        return [self._activity(key) for key in sorted(self.after.statistics)]

    def _activity(self, key: Version) -> Activity:
        now, then = self.after.statistics[key], self.before.statistics.get(key, pb.ModelStatistics())
        if now.execution_count < then.execution_count:
            then = pb.ModelStatistics()  # the model was reloaded
        stats, old = now.inference_stats, then.inference_stats
        answered = stats.success.count - old.success.count
        samples, batches = now.inference_count - then.inference_count, now.execution_count - then.execution_count
        compute_ns = sum(
            getattr(stats, part).ns - getattr(old, part).ns
            for part in ("compute_input", "compute_infer", "compute_output")
        )
        buckets = labelled(self.growth, "hangtag_request_seconds_bucket", *key, "OK")
        p50, p99 = (quantile({series[-1]: count for series, count in buckets.items()}, each) for each in (0.5, 0.99))
        return Activity(
            model=key[0],
            version=key[1],
            calls=answered / self.seconds,
            samples=samples / self.seconds,
            failures=(stats.fail.count - old.fail.count) / self.seconds,
            batch_size=samples / batches if batches else None,
            queue_ms=(stats.queue.ns - old.queue.ns) / answered / 1e6 if answered else None,
            compute_ms=compute_ns / answered / 1e6 if answered else None,
            p50_ms=p50,
            p99_ms=p99,
            queued=self._now("nv_inference_pending_request_count", key),
            max_queue_size=self._now("hangtag_max_queue_size", key),
        )

    def _now(self, name: str, key: Version) -> int | None:
        return None if self.after.metrics is None else int(self.after.metrics.get((name, *key), 0))

    def callers(self) -> tuple[float, float]:
        """Compute how many calls and samples callers sent per second. Without metrics, routes' calls are counted
        too."""

        def sent(unit: str, *outcome: str) -> float:
            """How much callers sent, which is all calls without those that routes send to their members and shadows."""
            inside = sum(labelled(self.growth, f"hangtag_route_{unit}_total").values())
            inside += self.growth.get((f"hangtag_route_shadow_{unit}_total", *outcome), 0)
            total = sum(row.calls if unit == "requests" else row.samples for row in self.activities)
            # A route counts an answer a moment before its member does, so the difference may be negative.
            return max(0.0, total - inside / self.seconds)

        return sent("requests", "compared"), sent("samples")

    def shares(self) -> dict[str, dict[str, float]]:
        """For each route that answered, compute which share of its samples reached each member, 0 to 1."""
        reached = sorted(labelled(self.growth, "hangtag_route_samples_total").items())
        totals: dict[str, float] = defaultdict(float)
        for (_, route, stage, _), count in reached:
            totals[route] += count if stage == 1 else 0
        return {
            route: {member: count / total for (_, name, _, member), count in reached if name == route}
            for route, total in totals.items()
            if total > 0
        }

    def transports(self) -> dict[str, float]:
        """Name of a transport -> number of processes that serve with this transport."""
        return {name: count for (_, name), count in labelled(self.after.metrics or {}, "hangtag_transport").items()}


def labelled(metrics: Metrics, name: str, *labels: object) -> Metrics:
    """Return those series of a metric in which the first labels have these values."""
    start = (name, *labels)
    return {series: value for series, value in metrics.items() if series[: len(start)] == start}


def quantile(buckets: Buckets, fraction: float) -> float | None:
    """Estimate a quantile in milliseconds, linear within a bucket as Prometheus' histogram_quantile is.

    Values above the last finite bound are treated as equal to that bound. Returns None for an empty histogram.
    """
    bounds = [(0.0, 0.0), *sorted(buckets.items())]
    rank = fraction * bounds[-1][1]
    for (low, below), (high, cumulative) in itertools.pairwise(bounds):
        if cumulative >= rank > below:
            width = 0.0 if math.isinf(high) else high - low
            return (low + width * (rank - below) / (cumulative - below)) * 1000
    return None


def fetch_metrics(url: str, credentials: Credentials) -> Metrics:
    """Fetch and parse the Prometheus metrics of a hangtag server.

    Args:
        url: http://HOST:PORT/metrics, with the server's metrics port, which needs no token, or with its HTTP port.
        credentials: a token, and for an https:// URL the authorities and the certificate. If authorities are given, the
            token is sent only over TLS, so an http:// URL does not get the token.

    Raises:
        MetricsError: the URL is not http or https, nothing answers there, or the answer is not in Prometheus' format.
        AddressError: the variable that names the URL's proxy (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) is not a proxy's
            URL.
        CredentialsError: a TLS or token file cannot be read.
    """
    if not url.startswith(("http://", "https://")):
        raise MetricsError(f"{url!r} is not an address of metrics: write http://HOST:PORT/metrics")
    try:
        between = proxy.for_url(url)
        proxies = {} if between is None else {url.partition(":")[0]: between.url}
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler(proxies)]
        request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
        if encrypted := url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=credentials.ssl_context(url)))
        if encrypted or credentials.tls_ca is None:
            request.headers.update(credentials.metadata())
        with urllib.request.build_opener(*handlers).open(request, timeout=METRICS_TIMEOUT) as response:
            return parse_metrics(response.read().decode())
    except UserError:
        raise
    except Exception as error:  # a server may answer anything, so the parser raises many kinds of exceptions
        advice = "Give"
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # the HTTPError is also the response, and keeps the connection open until close()
            advice = "Give --token-file, or" if error.code in (401, 403) else advice
        raise MetricsError(
            f"no metrics at {url}: {str(error) or type(error).__name__}. {advice} --metrics the server's port for "
            "metrics, which is 8002 unless 'hangtag serve --metrics-port' changed it"
        ) from error


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus' text format, and return the metrics that `hangtag top` needs.

    Raises:
        ValueError, LookupError, OverflowError: the text is not in that format.
    """
    metrics: dict[tuple[Any, ...], float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            types = _READ.get(sample.name)
            if types is not None and math.isfinite(sample.value):  # NaN: the server does not know the value
                labels = (read(sample.labels[label]) for label, read in types.items())
                metrics[sample.name, *labels] += sample.value
    return metrics
