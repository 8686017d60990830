"""Prometheus metrics, made from the server's state whenever they are asked for: counting costs the calls nothing more.

Names, units and labels are Triton's where the meaning is the same (nv_…), so that its dashboards work; its counters do
not end in _total, so these have no type here. What Triton does not have, foremost histograms that add up over processes
and machines, is hangtag_….
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from hangtag.serving.server.telemetry.histogram import SECONDS_BOUNDS, BucketHistogram
from hangtag.serving.server.telemetry.server_state import LOADING, READY, ServerState, VersionState

OK = "OK"
_MODEL = ["model", "version"]
# Triton's reasons, by the code that the caller got.
_REASONS = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "UNAVAILABLE": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
# What alerts wait for is told before it happens, at zero: to Prometheus what begins at one has not increased.
_AWAITED_CODES = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL")
_OUTCOMES = ("ok", "error")


@dataclass(frozen=True)
class Workers:
    """The processes of a server."""

    wanted: int = 1
    running: int = 1
    restarts: int = 0


class StateCollector(Collector):
    """Asks for the state at each scrape."""

    def __init__(self, state: Callable[[], ServerState], workers: Callable[[], Workers] = Workers) -> None:
        self._state = state
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        state = _awaited(self._state())
        served = [one for one in state.versions if one.state == READY]
        yield from _triton(served, state)
        yield from _histograms(served, state)
        yield from _models(state)
        yield from _server(self._workers(), state)


def _awaited(state: ServerState) -> ServerState:
    """With a zero for what has not happened yet."""
    none = BucketHistogram.empty(SECONDS_BOUNDS)
    failures = {
        (one.name, one.version, code): none for one in state.versions if one.state == READY for code in _AWAITED_CODES
    }
    loads = {(one.name, outcome): 0 for one in state.versions for outcome in _OUTCOMES}
    return replace(state, failures=failures | state.failures, loads=loads | state.loads)


def _triton(served: list[VersionState], state: ServerState) -> Iterator[Metric]:
    def metric(name: str, help_: str, value: Callable[[VersionState], float]) -> Metric:
        made = Metric(name, help_, "unknown")
        for one in served:
            made.add_sample(name, {"model": one.name, "version": one.version}, value(one))
        return made

    yield metric("nv_inference_request_success", "Requests answered", lambda one: one.counters.success.count)
    failed = Metric("nv_inference_request_failure", "Requests not answered, by Triton's reasons", "unknown")
    sums: dict[tuple[str, str, str], int] = {}
    for (model, version, code), histogram in state.failures.items():
        key = (model, version, _REASONS.get(code, "OTHER"))
        sums[key] = sums.get(key, 0) + histogram.count
    for (model, version, reason), count in sums.items():
        labels = {"model": model, "version": version, "reason": reason}
        failed.add_sample("nv_inference_request_failure", labels, count)
    yield failed
    yield metric("nv_inference_count", "Samples computed", lambda one: one.counters.inference_count)
    yield metric("nv_inference_exec_count", "Batches computed", lambda one: one.counters.execution_count)
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
            lambda one, field=field: getattr(one.counters, field).ns // 1000,  # type: ignore[misc]
        )
    yield metric("nv_inference_pending_request_count", "Requests in the queue", lambda one: one.queued)


def _histograms(served: list[VersionState], state: ServerState) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "hangtag_request_seconds", "From admission to answer, or from arrival to refusal", labels=[*_MODEL, "code"]
    )
    for one in served:
        _add(requests, [one.name, one.version, OK], one.counters.request_seconds)
    for failure, histogram in state.failures.items():
        _add(requests, list(failure), histogram)
    yield requests
    for name, about, field in (
        ("hangtag_queue_seconds", "Waiting in the queue, of the requests that were answered", "queue_seconds"),
        ("hangtag_compute_seconds", "Computing the batch, of the requests that were answered", "compute_seconds"),
        ("hangtag_batch_size", "Samples of the batches that were computed", "batch_sizes"),
    ):
        family = HistogramMetricFamily(name, about, labels=_MODEL)
        for one in served:
            _add(family, [one.name, one.version], getattr(one.counters, field))
        yield family


def _models(state: ServerState) -> Iterator[Metric]:
    ready = GaugeMetricFamily("hangtag_model_ready", "1: takes requests; 0: it cannot be loaded", labels=_MODEL)
    instances = GaugeMetricFamily("hangtag_model_instances", "Batches computed at once", labels=_MODEL)
    info = GaugeMetricFamily(
        "hangtag_model_info",
        "The execution provider, asked for and obtained, and whether CUDA graphs compute (on, off)",
        labels=[*_MODEL, "provider_asked", "provider", "cuda_graphs"],
    )
    queues = GaugeMetricFamily("hangtag_max_queue_size", "Requests that the queue holds, of all workers", labels=_MODEL)
    for one in state.versions:
        if one.state != LOADING:  # which may take minutes, and is no reason for an alert
            ready.add_metric([one.name, one.version], one.state == READY)
        if one.state == READY:
            instances.add_metric([one.name, one.version], one.instances)
            queues.add_metric([one.name, one.version], one.max_queue_size)
            graphs = "on" if one.cuda_graphs else "off"
            info.add_metric([one.name, one.version, one.provider_asked, one.provider, graphs], 1)
    yield from (ready, instances, info, queues)
    loads = CounterMetricFamily("hangtag_model_loads", "Versions loaded, and not", labels=["model", "outcome"])
    for (model, outcome), times in state.loads.items():
        loads.add_metric([model, outcome], times)
    yield loads


def _server(workers: Workers, state: ServerState) -> Iterator[Metric]:
    yield GaugeMetricFamily("hangtag_workers", "Processes that serve", workers.running)
    yield GaugeMetricFamily("hangtag_workers_wanted", "Processes that should serve", workers.wanted)
    yield CounterMetricFamily("hangtag_worker_restarts", "Processes that ended and were replaced", workers.restarts)
    paths = GaugeMetricFamily(
        "hangtag_infer_path",
        "Processes whose ModelInfer goes this path, hot or ordinary, and why not the hot one",
        labels=["path", "reason"],
    )
    for path, processes in state.paths.items():
        paths.add_metric(path, processes)
    yield paths
    info = GaugeMetricFamily("hangtag_build_info", "Versions at work", labels=["version", "grpcio"])
    info.add_metric([metadata.version("hangtag"), metadata.version("grpcio")], 1)
    yield info


def _add(family: HistogramMetricFamily, labels: list[str], histogram: BucketHistogram) -> None:
    buckets, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
    family.add_metric(labels, buckets, histogram.sum)
