"""Exports Prometheus metrics, built from the server's state at each scrape, so that they do not slow down requests.

Metrics that Triton also has keep Triton's names (nv_…), units and labels, so that Triton's dashboards work. Triton's
counters do not end in _total, which prometheus-client requires of counters, so these counters are exported without a
type. Metrics that Triton lacks are called hangtag_….
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.telemetry.model_statistics import SECONDS_BOUNDS, BucketHistogram
from hangtag.serving.server.telemetry.server_state import LOADING, READY, ServerState, VersionState

_ABOUT: Mapping[Any, Mapping[str, str]] = {
    UnknownMetricFamily: {
        "nv_inference_request_success": "Requests answered",
        "nv_inference_request_failure": "Failed requests, by the reasons that Triton defines",
        "nv_inference_count": "Samples computed",
        "nv_inference_exec_count": "Batches computed",
        "nv_inference_request_duration_us": "Time from admission to answer, summed over the answered requests",
        "nv_inference_queue_duration_us": "Time in the queue, summed over the answered requests",
        "nv_inference_compute_input_duration_us": "Time to concatenate the batch's inputs, summed over the answered "
        "requests",
        "nv_inference_compute_infer_duration_us": "Time in ONNX Runtime, summed over the answered requests",
        "nv_inference_compute_output_duration_us": "Time to split the batch's outputs, summed over the answered "
        "requests",
        "nv_inference_pending_request_count": "Requests in the queue",
    },
    HistogramMetricFamily: {
        "hangtag_request_seconds": "Time from admission to answer, or from arrival to refusal",
        "hangtag_queue_seconds": "Time that answered requests spent in the queue",
        "hangtag_compute_seconds": "Time to compute the batch of each answered request",
        "hangtag_batch_size": "Number of samples in each computed batch",
    },
    CounterMetricFamily: {
        "hangtag_shed_requests": "Requests refused because the queue was full, or because the requests in progress "
        "used too much memory. The model label is empty for requests that were refused before they were read",
        "hangtag_route_requests": "Requests that a route's member answered",
        "hangtag_route_samples": "Samples that a route's member answered",
        "hangtag_route_unsure_samples": "Samples that kept a low-confidence answer, because the cascade's next member "
        "refused them",
        "hangtag_route_shadow_requests": "Copies of requests for a route's shadow, by outcome: compared, failed, or "
        "skipped because of other work",
        "hangtag_route_shadow_samples": "Samples that both a route and its shadow answered",
        "hangtag_route_shadow_agreements": "Samples for which a route and its shadow agreed on the most probable label",
        "hangtag_io_binding_failures": "Batches whose computation with IO binding failed. After the first failure, the "
        "model no longer uses IO binding",
        "hangtag_model_loads": "Attempts to load a version, by outcome",
        "hangtag_worker_restarts": "Worker processes that were replaced",
        "hangtag_store_errors": "Failed updates of the local copy of the model store, or of one model in this copy",
    },
    GaugeMetricFamily: {
        "hangtag_route_expected_sent_on": "The fraction of samples that, according to route.toml, a cascade should "
        "pass to its second member",
        "hangtag_route_shadow_largest_difference": "The largest difference between output values of a route and of its "
        "shadow",
        "hangtag_model_ready": "1 if the model accepts requests, 0 if it cannot be loaded",
        "hangtag_model_instances": "The most batches that may be computed at once",
        "hangtag_model_info": "The requested execution provider and the one in use; whether CUDA graphs are used (on, "
        "off); and whether the CPU is used because CUDA does not work (fallback: yes, no)",
        "hangtag_max_queue_size": "The most requests that may wait in all workers together. Routes have no queue",
        "hangtag_workers": "Running worker processes",
        "hangtag_workers_wanted": "Worker processes that should run",
        "hangtag_transport": "Worker processes, by their transport (native or grpc) and the reason for its choice",
        "hangtag_store_last_success_timestamp_seconds": "Time at which the local copy last equalled the model store, "
        "in seconds since 1970; 0: not since startup",
        "hangtag_build_info": "Versions of hangtag and grpcio",
    },
}
"""The metrics by type, and their help texts."""
OK = "OK"
_MODEL = ("model", "version")
_STAGE = (*_MODEL, "stage", "member")
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
_Versions: TypeAlias = Mapping[tuple[str, str], VersionState]
"""States of model versions, by the values of the metric labels that _MODEL lists."""


def metrics_of(state: ServerState) -> Iterator[Metric]:
    state = _with_zeros(state)
    versions = {(version.name, version.version): version for version in state.versions}
    served = {labels: version for labels, version in versions.items() if version.state == READY}
    yield from _requests(served, state)
    yield from _routes(served)
    yield from _models(versions, served, state)
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
    """Add a count of 0 for each kind of event that alerts query, if no such event has happened yet."""
    none = BucketHistogram.of(SECONDS_BOUNDS)
    served = [version for version in state.versions if version.state == READY]
    failures = {(version.name, version.version, code): none for version in served for code in _ALERTED_CODES}
    shed = {"": 0} | {version.name: 0 for version in served}
    loads = {(version.name, outcome): 0 for version in state.versions for outcome in _OUTCOMES}
    return replace(state, failures=failures | state.failures, shed=shed | state.shed, loads=loads | state.loads)


def _metric(name: str, labels: tuple[str, ...], values: Mapping[Any, Any]) -> Metric:
    """Return a metric. Each key of ``values`` has one value for each label, in order. The value None is left out."""
    kind = next(kind for kind, texts in _ABOUT.items() if name in texts)
    family: Any = kind(name, _ABOUT[kind][name], labels=labels)
    for of_labels, value in values.items():
        if isinstance(value, BucketHistogram):
            bounds = [*map(str, value.bounds), "+Inf"]
            family.add_metric(of_labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
        elif value is not None:
            family.add_metric(of_labels, value)
    return cast(Metric, family)


def _requests(served: _Versions, state: ServerState) -> Iterator[Metric]:
    def of_counters(name: str, value: Callable[[Any], Any]) -> Metric:
        return _metric(name, _MODEL, {labels: value(version.counters) for labels, version in served.items()})

    yield of_counters("nv_inference_request_success", lambda counters: counters.success.count)
    reasons: Counter[tuple[str, ...]] = Counter()
    for (model, version, code), histogram in state.failures.items():
        reasons[model, version, _REASONS.get(code, "OTHER")] += histogram.count
    yield _metric("nv_inference_request_failure", (*_MODEL, "reason"), reasons)
    yield of_counters("nv_inference_count", lambda counters: counters.inference_count)
    yield of_counters("nv_inference_exec_count", lambda counters: counters.execution_count)
    yield of_counters("nv_inference_request_duration_us", lambda counters: counters.success.ns // 1000)
    yield of_counters("nv_inference_queue_duration_us", lambda counters: counters.queue.ns // 1000)
    yield of_counters("nv_inference_compute_input_duration_us", lambda counters: counters.compute_input.ns // 1000)
    yield of_counters("nv_inference_compute_infer_duration_us", lambda counters: counters.compute_infer.ns // 1000)
    yield of_counters("nv_inference_compute_output_duration_us", lambda counters: counters.compute_output.ns // 1000)
    queued = {labels: version.queued for labels, version in served.items()}
    yield _metric("nv_inference_pending_request_count", _MODEL, queued)
    answered = {(*labels, OK): version.counters.request_seconds for labels, version in served.items()}
    yield _metric("hangtag_request_seconds", (*_MODEL, "code"), {**answered, **state.failures})
    yield _metric("hangtag_shed_requests", ("model",), {(model,): count for model, count in state.shed.items()})
    yield of_counters("hangtag_queue_seconds", lambda counters: counters.queue_seconds)
    yield of_counters("hangtag_compute_seconds", lambda counters: counters.compute_seconds)
    yield of_counters("hangtag_batch_size", lambda counters: counters.batch_sizes)


def _routes(served: _Versions) -> Iterator[Metric]:
    routes = {labels: version.route for labels, version in served.items()}
    stages = {
        (*labels, str(stage), member): counts
        for labels, route in routes.items()
        for (stage, member), counts in route.stages.items()
    }
    yield _metric("hangtag_route_requests", _STAGE, {labels: counts.requests for labels, counts in stages.items()})
    yield _metric("hangtag_route_samples", _STAGE, {labels: counts.samples for labels, counts in stages.items()})
    unsure = {labels: route.low_confidence for labels, route in routes.items()}
    yield _metric("hangtag_route_unsure_samples", _MODEL, unsure)
    expected = {labels: route.expected_escalation_rate for labels, route in routes.items()}
    yield _metric("hangtag_route_expected_sent_on", _MODEL, expected)
    shadows = {labels: route.shadow for labels, route in routes.items() if route.shadow is not None}
    outcomes = ("compared", "skipped", "failed")
    copies = {(*labels, each): getattr(shadow, each) for labels, shadow in shadows.items() for each in outcomes}
    yield _metric("hangtag_route_shadow_requests", (*_MODEL, "outcome"), copies)
    yield _metric("hangtag_route_shadow_samples", _MODEL, {labels: each.samples for labels, each in shadows.items()})
    yield _metric("hangtag_route_shadow_agreements", _MODEL, {labels: each.agreed for labels, each in shadows.items()})
    largest = {labels: shadow.largest_difference for labels, shadow in shadows.items()}
    yield _metric("hangtag_route_shadow_largest_difference", _MODEL, largest)


def _models(versions: _Versions, served: _Versions, state: ServerState) -> Iterator[Metric]:
    # loading may take minutes, and is no reason for an alert
    ready = {labels: each.state == READY for labels, each in versions.items() if each.state != LOADING}
    yield _metric("hangtag_model_ready", _MODEL, ready)
    yield _metric("hangtag_model_instances", _MODEL, {labels: each.instances for labels, each in served.items()})
    infos = {}
    for labels, each in served.items():
        graphs, fallback = "on" if each.cuda_graphs else "off", "yes" if each.fell_back else "no"
        infos[*labels, each.requested_provider, each.provider, graphs, fallback] = 1
    yield _metric("hangtag_model_info", (*_MODEL, "provider_asked", "provider", "cuda_graphs", "fallback"), infos)
    queues = {labels: each.max_queue_size for labels, each in served.items() if not each.route.stages}
    yield _metric("hangtag_max_queue_size", _MODEL, queues)
    failures = {labels: each.io_binding_failures for labels, each in served.items()}
    yield _metric("hangtag_io_binding_failures", _MODEL, failures)
    yield _metric("hangtag_model_loads", ("model", "outcome"), state.loads)


def _server(state: ServerState) -> Iterator[Metric]:
    yield _metric("hangtag_workers", (), {(): state.workers.running})
    yield _metric("hangtag_workers_wanted", (), {(): state.workers.configured})
    yield _metric("hangtag_worker_restarts", (), {(): state.workers.restarts})
    yield _metric("hangtag_transport", ("transport", "reason"), state.transports)
    if (store := state.store) is not None:
        yield _metric("hangtag_store_last_success_timestamp_seconds", (), {(): store.last_success})
        yield _metric("hangtag_store_errors", (), {(): store.errors})
    versions = metadata.version("hangtag"), metadata.version("grpcio")
    yield _metric("hangtag_build_info", ("version", "grpcio"), {versions: 1})
