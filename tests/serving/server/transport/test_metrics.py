"""Prometheus metrics of a real server, read as Prometheus reads them."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.telemetry.prometheus import StateCollector
from hangtag.serving.server.telemetry.server_state import LOADING, READY, UNAVAILABLE, ServerState, VersionState
from hangtag.serving.server.transport.methods import INFERENCE_METHODS
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, failure, index, request
from tests.serving.server.transport.grpc.streams.conversation import Conversation
from tests.serving.server.transport.watched import Samples, Watched

pytestmark = pytest.mark.slow

PROVIDER = {"provider_asked": "auto", "provider": "CPUExecutionProvider", "cuda_graphs": "off"}


def metric(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted({"model": "gather", "version": "3", **labels}.items()))]


def test_answered_requests_are_counted_under_tritons_names(watched: Watched) -> None:
    watched.live.infer(request("gather", index=index(1, 2, 3)))
    watched.live.infer(request("gather", index=index(1)))
    samples = watched.samples()
    assert metric(samples, "nv_inference_request_success") == 2
    assert metric(samples, "nv_inference_count") == 4
    assert metric(samples, "nv_inference_exec_count") == 2
    assert metric(samples, "nv_inference_pending_request_count") == 0
    statistics = watched.live.statistics("gather").inference_stats
    assert metric(samples, "nv_inference_request_duration_us") == statistics.success.ns // 1000
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert metric(samples, f"nv_inference_{part}_duration_us") == getattr(statistics, part).ns // 1000


def test_the_histograms_hold_answered_requests(watched: Watched) -> None:
    watched.live.infer(request("gather", index=index(1, 2, 3)))
    watched.live.infer(request("gather", index=index(1)))
    samples = watched.samples()
    assert [metric(samples, "hangtag_batch_size_bucket", le=le) for le in ("1.0", "2.0", "4.0", "+Inf")] == [1, 1, 2, 2]
    assert metric(samples, "hangtag_batch_size_sum") == 4
    statistics = watched.live.statistics("gather").inference_stats
    for name, seconds, labels in (
        ("hangtag_request_seconds", statistics.success.ns / 1e9, {"code": "OK"}),
        ("hangtag_queue_seconds", statistics.queue.ns / 1e9, {}),
    ):
        assert metric(samples, f"{name}_count", **labels) == metric(samples, f"{name}_bucket", le="+Inf", **labels) == 2
        assert metric(samples, f"{name}_sum", **labels) == pytest.approx(seconds)
    assert metric(samples, "hangtag_compute_seconds_count") == 2


def test_failures_are_counted_by_code(watched: Watched) -> None:
    live = watched.live
    before = watched.samples()
    assert metric(before, "hangtag_request_seconds_count", code="INTERNAL") == 0
    assert metric(before, "nv_inference_request_failure", reason="BACKEND") == 0
    with live.broken("gather"):
        failure(lambda: live.infer(request("gather", index=index(1))))
    failure(lambda: live.infer(request("gather", wrong=index(1))))
    failure(lambda: live.classifier.Classify(classifier_pb2.ClassifyRequest(model_name="gather"), timeout=TIMEOUT))
    for name in ("made up", "another"):
        failure(lambda name=name: live.infer(request(name, index=index(1))))  # type: ignore[misc]
    wrong_version = request("gather", index=index(1))
    wrong_version.model_version = "9"
    failure(lambda: live.infer(wrong_version))
    samples = watched.samples()
    assert metric(samples, "hangtag_request_seconds_count", code="INTERNAL") == 1
    assert metric(samples, "hangtag_request_seconds_count", code="INVALID_ARGUMENT") == 2
    assert metric(samples, "nv_inference_request_failure", reason="BACKEND") == 1
    assert metric(samples, "nv_inference_request_failure", reason="OTHER") == 2
    # What callers make up is not a label: anybody could make series without end.
    assert metric(samples, "hangtag_request_seconds_count", model="", version="", code="NOT_FOUND") == 2
    assert metric(samples, "hangtag_request_seconds_count", version="", code="NOT_FOUND") == 1
    assert "made up" not in watched.get("/metrics")


def test_failures_in_a_stream_or_a_comparison_are_counted_by_code(watched: Watched) -> None:
    live = watched.live
    sent = [request("gather", index=index(value)) for value in (1, 99)]
    sent += [request("gather", wrong=index(1)), request("made up", index=index(1))]
    assert [bool(one.error_message) for one in Conversation(live.inference.ModelStreamInfer, *sent).finish()] == [
        *(False, True, True, True)
    ]
    strict = Conversation(live.inference.ModelStreamInfer, sent[2], metadata=[("triton_grpc_error", "true")])
    assert strict.end()[0] is grpc.StatusCode.INVALID_ARGUMENT
    image = classifier_pb2.ClassifyRequest(model_name="gather", encoded=b"none")
    assert Conversation(live.classifier.ClassifyStream, image).finish()[0].HasField("failure")
    choices = [classifier_pb2.ModelChoice(name=name) for name in ("gather", "another")]
    compared = live.classifier.Compare(classifier_pb2.CompareRequest(models=choices, encoded=b"none"), timeout=TIMEOUT)
    assert all(outcome.HasField("failure") for outcome in compared.outcomes)
    twice = classifier_pb2.CompareRequest(models=[choices[0]] * 2, encoded=b"none")
    failure(lambda: live.classifier.Compare(twice, timeout=TIMEOUT))
    samples = watched.samples()
    assert metric(samples, "hangtag_request_seconds_count", code="INVALID_ARGUMENT") == 5
    assert metric(samples, "hangtag_request_seconds_count", model="", version="", code="NOT_FOUND") == 2
    assert metric(samples, "hangtag_request_seconds_count", model="", version="", code="INVALID_ARGUMENT") == 1


@pytest.mark.parametrize("method", sorted(INFERENCE_METHODS))
def test_undecodable_bytes_are_counted_without_a_model_on_both_paths(
    tmp_path: Path, transport: str, method: str
) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1, metrics_port=0, transport=transport)) as live:
        watched = Watched(live)
        if "Stream" in method:
            stream: Any = live.channel.stream_stream(method)
            failure(lambda: list(stream(iter([b"\xff\xff\xff"]), timeout=TIMEOUT)))
        else:
            call: Any = live.channel.unary_unary(method)
            failure(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT))
        health: Any = live.channel.unary_unary("/grpc.health.v1.Health/Check")
        failure(lambda: health(b"\xff\xff\xff", timeout=TIMEOUT))  # not inference, so not counted
        samples = watched.samples()
        watched.http.close()
    assert metric(samples, "hangtag_request_seconds_count", model="", version="", code="INVALID_ARGUMENT") == 1


def test_each_failure_is_counted_once_in_each_place(watched: Watched) -> None:
    live = watched.live
    live.infer(request("gather", index=index(1)))
    failures = 6
    with live.broken("gather"):
        failure(lambda: live.infer(request("gather", index=index(1))))
    failure(lambda: live.infer(request("gather", wrong=index(1))))
    Conversation(
        live.inference.ModelStreamInfer, *(request("gather", index=index(value)) for value in (99, 1))
    ).finish()
    image = classifier_pb2.ClassifyRequest(model_name="gather", encoded=b"none")
    failure(lambda: live.classifier.Classify(image, timeout=TIMEOUT))
    Conversation(live.classifier.ClassifyStream, image).finish()
    models = [classifier_pb2.ModelChoice(name="gather")]
    live.classifier.Compare(classifier_pb2.CompareRequest(models=models, encoded=b"none"), timeout=TIMEOUT)
    samples = watched.samples()
    metrics = {
        name: sum(
            value
            for (metric, labels), value in samples.items()
            if metric == name and ("model", "gather") in labels and ("code", "OK") not in labels
        )
        for name in ("nv_inference_request_failure", "hangtag_request_seconds_count", "hangtag_request_seconds_sum")
    }
    statistics = live.statistics("gather").inference_stats
    assert metrics["nv_inference_request_failure"] == metrics["hangtag_request_seconds_count"] == failures
    assert (statistics.fail.count, statistics.success.count) == (failures, 2)
    assert statistics.fail.ns == pytest.approx(metrics["hangtag_request_seconds_sum"] * 1e9, rel=1e-3)


def test_the_queue_and_a_full_one(watched: Watched) -> None:
    with watched.live.gate("gather") as gate:
        calls = []
        for number in range(5):
            calls.append(watched.live.inference.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT))
            gate.wait_until_queued()
            if number == 0:
                gate.wait_until_computing()
        failure(lambda: watched.live.infer(request("gather", index=index(1))))
        samples = watched.samples()
        assert metric(samples, "nv_inference_pending_request_count") == 4
        assert metric(samples, "hangtag_max_queue_size") == 4
        assert metric(samples, "hangtag_request_seconds_count", code="RESOURCE_EXHAUSTED") == 1
        assert samples["hangtag_shed_requests_total", (("model", "gather"),)] == 1
        assert metric(samples, "nv_inference_request_failure", reason="REJECTED") == 1
        gate.open()
        assert all(call.result() for call in calls)


def test_a_message_that_is_too_large_does_not_count_as_shed(watched: Watched) -> None:
    """HangtagShedding asks for more servers, which would not help."""
    too_large = request("classifier", image=np.zeros((30_000, 28, 28), np.uint8))
    assert failure(lambda: watched.live.infer(too_large))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    shed = {labels: value for (name, labels), value in watched.samples().items() if "shed_requests_total" in name}
    assert shed == {(("model", name),): 0 for name in ("", "gather", "classifier")}


def test_a_model_on_the_cpu_because_cuda_does_not_work_says_so(watched: Watched) -> None:
    watched.live.model("gather").runtime.fell_back = True
    assert metric(watched.samples(), "hangtag_model_info", model="gather", **PROVIDER, fallback="yes") == 1


def test_the_metrics_name_the_models_and_their_providers(watched: Watched) -> None:
    samples = watched.samples()
    for model in ("gather", "classifier"):
        assert metric(samples, "hangtag_model_ready", model=model) == 1
        assert metric(samples, "hangtag_model_instances", model=model) == 1
        assert metric(samples, "hangtag_model_info", model=model, **PROVIDER, fallback="no") == 1
        loads = [samples["hangtag_model_loads_total", (("model", model), ("outcome", one))] for one in ("ok", "error")]
        assert loads == [1, 0]
    assert [samples[name, ()] for name in ("hangtag_workers", "hangtag_workers_wanted")] == [1, 2]
    assert samples["hangtag_worker_restarts_total", ()] == 3


def test_io_bindings_that_failed_are_counted_by_model(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = watched.live.model("gather").runtime
    runtime.use_io_binding(4, instances=1)
    assert runtime._buffer_pool is not None
    monkeypatch.setattr(runtime._buffer_pool, "run", lambda _: 1 / 0)
    for _ in range(2):  # the second is computed without the binding
        assert watched.live.inference.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT)
    samples = watched.samples()
    assert metric(samples, "hangtag_io_binding_failures_total", model="gather") == 1
    assert metric(samples, "hangtag_io_binding_failures_total", model="classifier") == 0


def test_a_version_that_is_loading_does_not_look_like_one_that_cannot_be_loaded() -> None:
    states = {"1": READY, "2": LOADING, "3": UNAVAILABLE}
    versions = tuple(VersionState("cnn", version, state) for version, state in states.items())
    metrics = {one.name: one for one in StateCollector(lambda: ServerState(versions)).collect()}
    ready = {sample.labels["version"]: sample.value for sample in metrics["hangtag_model_ready"].samples}
    assert ready == {"1": 1, "3": 0}


@pytest.mark.parametrize(
    ("transport", "labels"),
    [
        ("auto", {"transport": "native", "reason": "TLS is off and the address is loopback"}),
        ("grpc", {"transport": "grpc", "reason": "--transport grpc"}),
    ],
)
def test_which_transport_serves_and_why(tmp_path: Path, transport: str, labels: dict[str, str]) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1, metrics_port=0, transport=transport)) as live:
        watched = Watched(live)
        transports = {key: value for key, value in watched.samples().items() if key[0] == "hangtag_transport"}
        watched.http.close()
    assert transports == {("hangtag_transport", tuple(sorted(labels.items()))): 1}
