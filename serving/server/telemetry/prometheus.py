"""Exports Prometheus metrics, built from the server's state at each scrape, so that they do not slow down requests.

Metrics that Triton also has keep Triton's names (nv_…), units and labels, so that Triton's dashboards work. Triton's
counters do not end in _total, which prometheus-client requires of counters, so these counters are exported without a
type. Metrics that Triton lacks are called hangtag_….
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from itertools import accumulate
from types import SimpleNamespace
from typing import cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.telemetry.model_statistics import SECONDS_BOUNDS, BucketHistogram
from hangtag.serving.server.telemetry.server_state import LOADING, READY, ServerState, VersionState

OK = "OK"
_MODEL = ["model", "version"]
# Triton's failure reasons by gRPC status code.
_REASONS = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "UNAVAILABLE": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
# Series that alerts watch are exported at zero from the start. Prometheus sees no increase in a series that begins at
# one, so the first failure would not fire the alert.
_ALERTED_CODES = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL")
_OUTCOMES = ("ok", "error")


def metrics_of(state: ServerState) -> Iterator[Metric]:
    state = _with_zeros(state)
    served = [version for version in state.versions if version.state == READY]
    yield from _triton(served, state)
    yield from _histograms(served, state)
    yield from _routes(served)
    yield from _models(state)
    yield from _server(state)


def exposition(state: Callable[[], ServerState], accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that an Accept header names, and their content type. Raises InvalidRequestError
    if the header is malformed, because prometheus-client's own error would quote the header."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        raise InvalidRequestError("the Accept header has a version that is not a number") from None
    collector = SimpleNamespace(collect=lambda: metrics_of(state()))
    return encode(cast(Collector, collector)), content_type


def _with_zeros(state: ServerState) -> ServerState:
    """Add zeros for the failures and loads that alerts watch, if none has happened yet."""
    none = BucketHistogram.of(SECONDS_BOUNDS)
    served = [version for version in state.versions if version.state == READY]
    failures = {(version.name, version.version, code): none for version in served for code in _ALERTED_CODES}
    shed = {"": 0} | {version.name: 0 for version in served}
    loads = {(version.name, outcome): 0 for version in state.versions for outcome in _OUTCOMES}
    return replace(state, failures=failures | state.failures, shed=shed | state.shed, loads=loads | state.loads)


def _triton(served: list[VersionState], state: ServerState) -> Iterator[Metric]:
    def metric(name: str, help_: str, value: Callable[[VersionState], float]) -> Metric:
        metric = Metric(name, help_, "unknown")
        for version in served:
            metric.add_sample(name, {"model": version.name, "version": version.version}, value(version))
        return metric

    yield metric("nv_inference_request_success", "Requests answered", lambda version: version.counters.success.count)
    failed = Metric("nv_inference_request_failure", "Failed requests, by the reasons that Triton defines", "unknown")
    sums: Counter[tuple[str, str, str]] = Counter()
    for (model, version, code), histogram in state.failures.items():
        sums[model, version, _REASONS.get(code, "OTHER")] += histogram.count
    for (model, version, reason), count in sums.items():
        labels = {"model": model, "version": version, "reason": reason}
        failed.add_sample("nv_inference_request_failure", labels, count)
    yield failed
    yield metric("nv_inference_count", "Samples computed", lambda version: version.counters.inference_count)
    yield metric("nv_inference_exec_count", "Batches computed", lambda version: version.counters.execution_count)
    for part, about in (
        ("request", "Time from admission to answer"),
        ("queue", "Time in the queue"),
        ("compute_input", "Time to concatenate the batch's inputs"),
        ("compute_infer", "Time in ONNX Runtime"),
        ("compute_output", "Time to split the batch's outputs"),
    ):
        field = "success" if part == "request" else part
        yield metric(
            f"nv_inference_{part}_duration_us",
            f"{about}, summed over the answered requests",
            lambda version, field=field: getattr(version.counters, field).ns // 1000,  # type: ignore[misc]
        )
    yield metric("nv_inference_pending_request_count", "Requests in the queue", lambda version: version.queued)


def _histograms(served: list[VersionState], state: ServerState) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "hangtag_request_seconds", "Time from admission to answer, or from arrival to refusal", labels=[*_MODEL, "code"]
    )
    for version in served:
        _add(requests, [version.name, version.version, OK], version.counters.request_seconds)
    for failure, histogram in state.failures.items():
        _add(requests, list(failure), histogram)
    yield requests
    shed = CounterMetricFamily(
        "hangtag_shed_requests",
        "Requests that were refused because the queue was full, or because requests used too much memory. The model "
        "label is empty for requests that were refused before they were read",
        labels=["model"],
    )
    for model, count in state.shed.items():
        shed.add_metric([model], count)
    yield shed
    for name, about, field in (
        ("hangtag_queue_seconds", "Time that answered requests spent in the queue", "queue_seconds"),
        ("hangtag_compute_seconds", "Time to compute the batch of each answered request", "compute_seconds"),
        ("hangtag_batch_size", "Number of samples in each computed batch", "batch_sizes"),
    ):
        family = HistogramMetricFamily(name, about, labels=_MODEL)
        for version in served:
            _add(family, [version.name, version.version], getattr(version.counters, field))
        yield family


def _routes(served: list[VersionState]) -> Iterator[Metric]:
    labels = [*_MODEL, "stage", "member"]
    requests = CounterMetricFamily("hangtag_route_requests", "Requests that a route's member answered", labels=labels)
    samples = CounterMetricFamily("hangtag_route_samples", "Samples that a route's member answered", labels=labels)
    low_confidence = CounterMetricFamily(
        "hangtag_route_unsure_samples",
        "Samples that kept a low-confidence answer, because the queue of the cascade's next member refused them",
        labels=_MODEL,
    )
    expected = GaugeMetricFamily(
        "hangtag_route_expected_sent_on",
        "The fraction of samples that a cascade's second member should get according to route.toml",
        labels=_MODEL,
    )
    copies = CounterMetricFamily(
        "hangtag_route_shadow_requests",
        "Copies of requests for a route's shadow, by outcome: compared, failed, or skipped because of other work",
        labels=[*_MODEL, "outcome"],
    )
    compared = CounterMetricFamily(
        "hangtag_route_shadow_samples", "Samples that both a route and its shadow answered", labels=_MODEL
    )
    agreed = CounterMetricFamily(
        "hangtag_route_shadow_agreements",
        "Samples for which a route and its shadow agreed on the most probable label",
        labels=_MODEL,
    )
    difference = GaugeMetricFamily(
        "hangtag_route_shadow_largest_difference",
        "The largest difference between output values of a route and of its shadow",
        labels=_MODEL,
    )
    for version in served:
        values, route = [version.name, version.version], version.route
        for (stage, member), counts in route.stages.items():
            requests.add_metric([*values, str(stage), member], counts.requests)
            samples.add_metric([*values, str(stage), member], counts.samples)
        if route.low_confidence is not None:
            low_confidence.add_metric(values, route.low_confidence)
        if route.expected_escalation_rate is not None:
            expected.add_metric(values, route.expected_escalation_rate)
        if (shadow := route.shadow) is not None:
            for outcome in ("compared", "skipped", "failed"):
                copies.add_metric([*values, outcome], getattr(shadow, outcome))
            compared.add_metric(values, shadow.samples)
            agreed.add_metric(values, shadow.agreed)
            difference.add_metric(values, shadow.largest_difference)
    yield from (requests, samples, low_confidence, expected, copies, compared, agreed, difference)


def _models(state: ServerState) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "hangtag_model_ready", "1 if the model accepts requests, 0 if it cannot be loaded", labels=_MODEL
    )
    instances = GaugeMetricFamily(
        "hangtag_model_instances", "The most batches that may be computed at once", labels=_MODEL
    )
    info = GaugeMetricFamily(
        "hangtag_model_info",
        "The requested execution provider and the one in use; whether CUDA graphs are used (on, off); "
        "and whether the CPU is used because CUDA does not work (fallback: yes, no)",
        labels=[*_MODEL, "provider_asked", "provider", "cuda_graphs", "fallback"],
    )
    binding_failures = CounterMetricFamily(
        "hangtag_io_binding_failures",
        "Batches whose computation with IO binding failed. After a failure, the model computes without IO binding",
        labels=_MODEL,
    )
    queues = GaugeMetricFamily(
        "hangtag_max_queue_size",
        "The most requests that may wait in all workers together. Routes have no queue",
        labels=_MODEL,
    )
    for version in state.versions:
        labels = [version.name, version.version]
        if version.state != LOADING:  # loading may take minutes, and is no reason for an alert
            ready.add_metric(labels, version.state == READY)
        if version.state == READY:
            instances.add_metric(labels, version.instances)
            if not version.route.stages:
                queues.add_metric(labels, version.max_queue_size)
            binding_failures.add_metric(labels, version.io_binding_failures)
            graphs = "on" if version.cuda_graphs else "off"
            fallback = "yes" if version.fell_back else "no"
            info.add_metric([*labels, version.requested_provider, version.provider, graphs, fallback], 1)
    yield from (ready, instances, info, queues, binding_failures)
    loads = CounterMetricFamily(
        "hangtag_model_loads", "Attempts to load a version, by outcome", labels=["model", "outcome"]
    )
    for (model, outcome), times in state.loads.items():
        loads.add_metric([model, outcome], times)
    yield loads


def _server(state: ServerState) -> Iterator[Metric]:
    workers = state.workers
    yield GaugeMetricFamily("hangtag_workers", "Running worker processes", workers.running)
    yield GaugeMetricFamily("hangtag_workers_wanted", "Worker processes that should run", workers.configured)
    yield CounterMetricFamily("hangtag_worker_restarts", "Worker processes that were replaced", workers.restarts)
    transports = GaugeMetricFamily(
        "hangtag_transport",
        "Worker processes by transport (native or grpc) and by the reason for this transport",
        labels=["transport", "reason"],
    )
    for transport, processes in state.transports.items():
        transports.add_metric(transport, processes)
    yield transports
    if state.store is not None:
        yield GaugeMetricFamily(
            "hangtag_store_last_success_timestamp_seconds",
            "Time at which the local copy last equalled the model store, in seconds since 1970; 0: not since startup",
            state.store.last_success,
        )
        yield CounterMetricFamily(
            "hangtag_store_errors",
            "Failed updates of the local copy of the model store, or of one model in this copy",
            state.store.errors,
        )
    info = GaugeMetricFamily("hangtag_build_info", "Versions of hangtag and grpcio", labels=["version", "grpcio"])
    info.add_metric([metadata.version("hangtag"), metadata.version("grpcio")], 1)
    yield info


def _add(family: HistogramMetricFamily, labels: list[str], histogram: BucketHistogram) -> None:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
