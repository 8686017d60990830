"""Exports Prometheus metrics, built from the server's state at each scrape, so that requests pay nothing for them.

Names, units and labels are Triton's where the meaning is the same (nv_…), so that its dashboards work. Triton's
counters do not end in _total, which prometheus-client requires of counters, so here they have no type. Metrics that
Triton lacks, above all histograms that add up over processes and machines, are called hangtag_….
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import metadata

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from hangtag.serving.server.telemetry.histogram import SECONDS_BOUNDS, BucketHistogram
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
# Series that alerts watch are exported from the start, at zero: a series that begins at one has not increased, says
# Prometheus, so the first failure would not fire the alert.
_ALERTED_CODES = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL")
_OUTCOMES = ("ok", "error")


class StateCollector(Collector):
    """Builds all metrics from the server's state at each scrape."""

    def __init__(self, state: Callable[[], ServerState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = _with_zeros(self._state())
        served = [version for version in state.versions if version.state == READY]
        yield from _triton(served, state)
        yield from _histograms(served, state)
        yield from _routes(served)
        yield from _models(state)
        yield from _server(state)


def _with_zeros(state: ServerState) -> ServerState:
    """Add zeros for the failures and loads that alerts watch and that have not happened yet."""
    none = BucketHistogram.empty(SECONDS_BOUNDS)
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
    failed = Metric("nv_inference_request_failure", "Requests that ended with an error, by Triton's reasons", "unknown")
    sums: dict[tuple[str, str, str], int] = {}
    for (model, version, code), histogram in state.failures.items():
        key = (model, version, _REASONS.get(code, "OTHER"))
        sums[key] = sums.get(key, 0) + histogram.count
    for (model, version, reason), count in sums.items():
        labels = {"model": model, "version": version, "reason": reason}
        failed.add_sample("nv_inference_request_failure", labels, count)
    yield failed
    yield metric("nv_inference_count", "Samples computed", lambda version: version.counters.inference_count)
    yield metric("nv_inference_exec_count", "Batches computed", lambda version: version.counters.execution_count)
    for part, about in (
        ("request", "From admission to answer"),
        ("queue", "Waiting in the queue"),
        ("compute_input", "Joining the batch's inputs"),
        ("compute_infer", "In ONNX Runtime"),
        ("compute_output", "Splitting the batch's outputs"),
    ):
        field = "success" if part == "request" else part
        yield metric(
            f"nv_inference_{part}_duration_us",
            f"{about}, summed over the requests that were answered",
            lambda version, field=field: getattr(version.counters, field).ns // 1000,  # type: ignore[misc]
        )
    yield metric("nv_inference_pending_request_count", "Requests in the queue", lambda version: version.queued)


def _histograms(served: list[VersionState], state: ServerState) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "hangtag_request_seconds", "From admission to answer, or from arrival to refusal", labels=[*_MODEL, "code"]
    )
    for version in served:
        _add(requests, [version.name, version.version, OK], version.counters.request_seconds)
    for failure, histogram in state.failures.items():
        _add(requests, list(failure), histogram)
    yield requests
    shed = CounterMetricFamily(
        "hangtag_shed_requests",
        "Requests refused because the limit on waiting requests, or on their memory, was reached; without a model: "
        "before they were read",
        labels=["model"],
    )
    for model, count in state.shed.items():
        shed.add_metric([model], count)
    yield shed
    for name, about, field in (
        ("hangtag_queue_seconds", "Waiting in the queue, of the requests that were answered", "queue_seconds"),
        ("hangtag_compute_seconds", "Computing the batch, of the requests that were answered", "compute_seconds"),
        ("hangtag_batch_size", "Samples of the batches that were computed", "batch_sizes"),
    ):
        family = HistogramMetricFamily(name, about, labels=_MODEL)
        for version in served:
            _add(family, [version.name, version.version], getattr(version.counters, field))
        yield family


def _routes(served: list[VersionState]) -> Iterator[Metric]:
    labels = [*_MODEL, "stage", "member"]
    requests = CounterMetricFamily("hangtag_route_requests", "Requests that a route's member answered", labels=labels)
    samples = CounterMetricFamily("hangtag_route_samples", "Samples that a route's member answered", labels=labels)
    for route in served:
        for (stage, member), counts in route.route.stages.items():
            values = [route.name, route.version, str(stage), member]
            requests.add_metric(values, counts.requests)
            samples.add_metric(values, counts.samples)
    unsure = CounterMetricFamily(
        "hangtag_route_unsure_samples",
        "Samples of a cascade with the answer of a member that was not sure, as the next one could not take them",
        labels=_MODEL,
    )
    expected = GaugeMetricFamily(
        "hangtag_route_expected_sent_on",
        "Share of the samples that goes on to a cascade's second member, by its route.toml",
        labels=_MODEL,
    )
    for route in served:
        if route.route.unsure is not None:
            unsure.add_metric([route.name, route.version], route.route.unsure)
        if route.route.expected_sent_on is not None:
            expected.add_metric([route.name, route.version], route.route.expected_sent_on)
    copies = CounterMetricFamily(
        "hangtag_route_shadow_requests",
        "Copies of a route's requests for its shadow: compared, skipped for other work, or failed",
        labels=[*_MODEL, "outcome"],
    )
    compared = CounterMetricFamily(
        "hangtag_route_shadow_samples", "Samples of a route that its shadow answered too", labels=_MODEL
    )
    agreed = CounterMetricFamily(
        "hangtag_route_shadow_agreements", "Those of them whose most probable label is the same", labels=_MODEL
    )
    difference = GaugeMetricFamily(
        "hangtag_route_shadow_largest_difference", "Of any value of an output, since the start", labels=_MODEL
    )
    for route in served:
        if (shadow := route.route.shadow) is not None:
            values = [route.name, route.version]
            for outcome in ("compared", "skipped", "failed"):
                copies.add_metric([*values, outcome], getattr(shadow, outcome))
            compared.add_metric(values, shadow.samples)
            agreed.add_metric(values, shadow.agreed)
            difference.add_metric(values, shadow.largest_difference)
    yield from (requests, samples, unsure, expected, copies, compared, agreed, difference)


def _models(state: ServerState) -> Iterator[Metric]:
    ready = GaugeMetricFamily("hangtag_model_ready", "1: takes requests; 0: it cannot be loaded", labels=_MODEL)
    instances = GaugeMetricFamily("hangtag_model_instances", "Batches computed at once", labels=_MODEL)
    info = GaugeMetricFamily(
        "hangtag_model_info",
        "The execution provider, requested and obtained; whether CUDA graphs compute (on, off), and whether the CPU "
        "computes because CUDA does not work (fallback: yes, no)",
        labels=[*_MODEL, "provider_asked", "provider", "cuda_graphs", "fallback"],
    )
    binding_failures = CounterMetricFamily(
        "hangtag_io_binding_failures",
        "Batches that failed with IO binding and were computed without it; the model no longer uses it then",
        labels=_MODEL,
    )
    queues = GaugeMetricFamily(
        "hangtag_max_queue_size",
        "Requests that the queue holds, of all workers; a route has none of its own",
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
    loads = CounterMetricFamily("hangtag_model_loads", "Loads of versions, by outcome", labels=["model", "outcome"])
    for (model, outcome), times in state.loads.items():
        loads.add_metric([model, outcome], times)
    yield loads


def _server(state: ServerState) -> Iterator[Metric]:
    workers = state.workers
    yield GaugeMetricFamily("hangtag_workers", "Worker processes that run", workers.running)
    yield GaugeMetricFamily("hangtag_workers_wanted", "Worker processes that should run", workers.configured)
    yield CounterMetricFamily("hangtag_worker_restarts", "Worker processes that were replaced", workers.restarts)
    transports = GaugeMetricFamily(
        "hangtag_transport",
        "Worker processes by their transport, native or grpc, and the reason for it",
        labels=["transport", "reason"],
    )
    for transport, processes in state.transports.items():
        transports.add_metric(transport, processes)
    yield transports
    info = GaugeMetricFamily("hangtag_build_info", "Versions of hangtag and grpcio", labels=["version", "grpcio"])
    info.add_metric([metadata.version("hangtag"), metadata.version("grpcio")], 1)
    yield info


def _add(family: HistogramMetricFamily, labels: list[str], histogram: BucketHistogram) -> None:
    buckets, cumulative = [], 0
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        cumulative += count
        buckets.append((bound, float(cumulative)))
    family.add_metric(labels, buckets, histogram.sum)
