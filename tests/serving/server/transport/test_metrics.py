"""The metrics of a real server, read as Prometheus reads them, and the separate metrics port."""

import contextlib
import signal
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hangtag.protos import classifier_pb2, inference_pb2
from hangtag.serving.server.runtime.session import Runtime
from studies.stubs import InferenceStub
from tests.kit import onnx_models, rest
from tests.kit.command import serving
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.over_http import ENVOY, OVER_GRPC, live_server, options_of
from tests.kit.raw import status_line
from tests.kit.waiting import TIMEOUT, until

PROVIDER = {"provider_asked": "auto", "provider": "CPUExecutionProvider", "cuda_graphs": "off"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Watched:
    """A server with methods that read its metrics, by default the metrics of version 3 of the model ``gather``."""

    def __init__(self, live: LiveServer) -> None:
        self.live = live

    def text(self) -> str:
        return rest.metrics(self.live.server.http_address)

    def metric(self, name: str, **labels: str) -> float:
        return read(self.text())[name, tuple(sorted({"model": "gather", "version": "3", **labels}.items()))]

    def failed(self, code: str, **labels: str) -> float:
        return self.metric("hangtag_request_seconds_count", code=code, **labels)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("gather", "classifier"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)(), version=3)
    return tmp_path


@pytest.fixture
def watched(models: Path, transport: str) -> Iterator[Watched]:
    with live_server(transport, models, http_port=0, max_batch_size=4, max_queue_size=4, instances=1) as live:
        yield Watched(live)


def test_answered_requests_are_counted_under_tritons_names_and_in_histograms(watched: Watched) -> None:
    live, metric = watched.live, watched.metric
    live.infer(request("gather", index=index(1, 2, 3)))
    live.infer(request("gather", index=index(1)))
    assert metric("nv_inference_request_success") == 2
    assert metric("nv_inference_count") == 4
    assert metric("nv_inference_exec_count") == 2
    assert metric("nv_inference_pending_request_count") == 0
    statistics = live.statistics("gather")
    assert (statistics.name, statistics.version) == ("gather", "3")
    assert (statistics.inference_count, statistics.execution_count) == (4, 2)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [(1, 1), (3, 1)]
    assert statistics.last_inference > 0
    parts = statistics.inference_stats
    assert (parts.success.count, parts.fail.count) == (2, 0)
    assert metric("nv_inference_request_duration_us") == parts.success.ns // 1000
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert metric(f"nv_inference_{part}_duration_us") == getattr(parts, part).ns // 1000
    assert [metric("hangtag_batch_size_bucket", le=le) for le in ("1.0", "2.0", "4.0", "+Inf")] == [1, 1, 2, 2]
    assert metric("hangtag_batch_size_sum") == 4
    assert metric("hangtag_compute_seconds_count") == 2
    for name, seconds, labels in (
        ("hangtag_request_seconds", parts.success.ns / 1e9, {"code": "OK"}),
        ("hangtag_queue_seconds", parts.queue.ns / 1e9, {}),
    ):
        assert metric(f"{name}_count", **labels) == metric(f"{name}_bucket", le="+Inf", **labels) == 2
        assert metric(f"{name}_sum", **labels) == pytest.approx(seconds)


def test_failures_are_counted_once_by_code_and_by_models_that_there_are(watched: Watched) -> None:
    live, metric, failed = watched.live, watched.metric, watched.failed
    assert failed("INTERNAL") == metric("nv_inference_request_failure", reason="BACKEND") == 0
    live.infer(request("gather", index=index(1)))
    with live.gates.failing("gather"):
        failure(lambda: live.infer(request("gather", index=index(1))))
    failure(lambda: live.infer(request("gather", wrong=index(1))))
    failure(lambda: live.infer(request("gather", index=index(99))))
    image = classifier_pb2.ClassifyRequest(model_name="gather", encoded=b"none")
    failure(lambda: live.classifier.Classify(image, timeout=TIMEOUT))
    choices = [classifier_pb2.ModelChoice(name=name) for name in ("gather", "another")]
    compared = live.classifier.Compare(classifier_pb2.CompareRequest(models=choices, encoded=b"none"), timeout=TIMEOUT)
    assert all(outcome.HasField("failure") for outcome in compared.outcomes)
    for name in ("made up", "others"):
        failure(lambda name=name: live.infer(request(name, index=index(1))))  # type: ignore[misc]
    wrong_version = request("gather", index=index(1))
    wrong_version.model_version = "9"
    failure(lambda: live.infer(wrong_version))
    assert failed("INTERNAL") == metric("nv_inference_request_failure", reason="BACKEND") == 1
    assert failed("INVALID_ARGUMENT") == metric("nv_inference_request_failure", reason="OTHER") == 4
    # If labels held unknown names from requests, callers could create any number of time series.
    assert failed("NOT_FOUND", model="", version="") == 3
    assert failed("NOT_FOUND", version="") == 1
    assert not {"made up", "others", "another"} & set(watched.text().replace('"', "\n").split("\n"))
    statistics = live.statistics("gather").inference_stats
    assert (statistics.success.count, statistics.fail.count) == (1, 5)
    seconds = [metric("hangtag_request_seconds_sum", code=code) for code in ("INTERNAL", "INVALID_ARGUMENT")]
    assert statistics.fail.ns == pytest.approx(sum(seconds) * 1e9, rel=1e-3)


@OVER_GRPC
def test_failures_in_a_stream_and_undecodable_bytes_are_counted_by_code(watched: Watched) -> None:
    live = watched.live
    sent = [request("gather", index=index(value)) for value in (1, 99)]
    sent += [request("gather", wrong=index(1)), request("made up", index=index(1))]
    answers = list(live.inference.ModelStreamInfer(iter(sent), timeout=TIMEOUT))
    assert [bool(one.error_message) for one in answers] == [False, True, True, True]
    strict = live.inference.ModelStreamInfer(iter([sent[2]]), timeout=TIMEOUT, metadata=[("triton_grpc_error", "true")])
    assert failure(lambda: list(strict))[0] is grpc.StatusCode.INVALID_ARGUMENT
    image = classifier_pb2.ClassifyRequest(model_name="gather", encoded=b"none")
    (answer,) = live.classifier.ClassifyStream(iter([image]), timeout=TIMEOUT)
    assert answer.HasField("failure")
    twice = classifier_pb2.CompareRequest(models=[classifier_pb2.ModelChoice(name="gather")] * 2, encoded=b"none")
    assert failure(lambda: live.classifier.Compare(twice, timeout=TIMEOUT))[0] is grpc.StatusCode.INVALID_ARGUMENT
    for method in (
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelStreamInfer",
        "hangtag.v1.Classifier/Classify",
        "hangtag.v1.Classifier/ClassifyStream",
        "hangtag.v1.Classifier/Compare",
        "grpc.health.v1.Health/Check",  # not counted, because it is no inference
    ):
        call: Any = live.channel.stream_stream(f"/{method}")
        failure(lambda call=call: list(call(iter([b"\xff\xff\xff"]), timeout=TIMEOUT)))  # type: ignore[misc]
    assert watched.failed("INVALID_ARGUMENT") == 4
    assert watched.failed("NOT_FOUND", model="", version="") == 1
    assert watched.failed("INVALID_ARGUMENT", model="", version="") == 1 + 5


def test_the_queue_and_a_full_one(watched: Watched) -> None:
    live, metric = watched.live, watched.metric
    with live.gates.closed("gather") as gate:
        calls = live.occupy(gate, *[request("gather", index=index(1))] * 5)
        failure(lambda: live.infer(request("gather", index=index(1))))
        assert metric("nv_inference_pending_request_count") == metric("hangtag_max_queue_size") == 4
        assert watched.failed("RESOURCE_EXHAUSTED") == 1
        assert read(watched.text())["hangtag_shed_requests_total", (("model", "gather"),)] == 1
        assert metric("nv_inference_request_failure", reason="REJECTED") == 1
        gate.open()
        assert all(call.result() for call in calls)


def test_a_message_that_is_too_large_does_not_count_as_shed(watched: Watched) -> None:
    """The alert HangtagShedding asks for more servers, which would not help against large messages."""
    too_large = request("classifier", image=np.zeros((30_000, 28, 28), np.uint8))
    assert failure(lambda: watched.live.infer(too_large))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    shed = {labels: value for (name, labels), value in read(watched.text()).items() if "shed_requests_total" in name}
    assert shed == {(("model", name),): 0 for name in ("", "gather", "classifier")}


def test_the_metrics_name_the_models_their_providers_and_the_transport(models: Path) -> None:
    """One model runs on the CPU because CUDA does not work, and two of its IO bindings have failed."""

    def load(path: Path, **options: Any) -> Runtime:
        runtime = Runtime(path, **options)
        if path.parents[1].name == "gather":
            runtime.notes["no_cuda"], runtime.io_binding_failures = "no driver", 2
        return runtime

    with live_server("auto", models, runtimes=load, http_port=0, instances=1) as live:
        watched = Watched(live)
        for model, fallback, failures in (("gather", "yes", 2), ("classifier", "no", 0)):
            assert watched.metric("hangtag_model_ready", model=model) == 1
            assert watched.metric("hangtag_model_instances", model=model) == 1
            assert watched.metric("hangtag_model_info", model=model, **PROVIDER, fallback=fallback) == 1
            assert watched.metric("hangtag_io_binding_failures_total", model=model) == failures
        samples = read(watched.text())
    for model in ("gather", "classifier"):
        for outcome, count in (("ok", 1), ("error", 0)):
            assert samples["hangtag_model_loads_total", (("model", model), ("outcome", outcome))] == count
    chosen = ("reason", "TLS is off and the address is loopback"), ("transport", "native")
    assert {key: value for key, value in samples.items() if key[0] == "hangtag_transport"} == {
        ("hangtag_transport", chosen): 1
    }


def test_a_version_that_is_loading_does_not_look_like_one_that_cannot_be_loaded(models: Path) -> None:
    live = live_server("native", models, http_port=0, model_control="explicit", load_model=("*",))
    watched = Watched(live)

    def ready() -> dict[str, float]:
        samples = read(watched.text())
        return {
            dict(labels)["model"]: value for (name, labels), value in samples.items() if name == "hangtag_model_ready"
        }

    with live.loading("gather") as go_on:
        assert ready() == {}
        go_on()
        onnx_models.publish(models, "broken", onnx_models.gather()).write_bytes(b"broken")
        message = inference_pb2.RepositoryModelLoadRequest(model_name="broken")
        assert "cannot be loaded" in failure(lambda: live.inference.RepositoryModelLoad(message, timeout=TIMEOUT))[1]
        assert ready() == {"classifier": 1, "gather": 1, "broken": 0}


MOST = 32
"""The maximum number of concurrent connections to an exposed metrics port."""


@pytest.mark.parametrize("transport", ["grpc", ENVOY])
def test_the_port_for_metrics_has_health_too_and_stays_silent_in_the_log(few: Path, transport: str) -> None:
    with serving("--models", few, "--port", "0", *options_of(transport), "--host", "::1") as server:
        url = urllib.parse.urlsplit(server.metrics_url)

        def connect() -> socket.socket:
            return socket.create_connection((url.hostname, url.port), TIMEOUT)

        def status(path: str, accept: str = "*/*") -> int:
            with connect() as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode())
                return int(status_line(connection).split()[1])

        def is_answered(connection: socket.socket) -> bool:
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
                return connection.makefile("rb").read().endswith(b"live\n")
            return False

        def every_place_is_answered() -> bool:
            taken = [connect() for _ in range(MOST)]
            with connect() as another:
                assert another.recv(1) == b""
            return sum(map(is_answered, taken)) == MOST

        assert [status(path) for path in ("/metrics", "/v2/health/live", "/v2/health/ready")] == [200] * 3
        assert status("/") == 404
        assert status("/metrics", "application/openmetrics-text; version=no-number") == 400
        assert status("/metrics", "application/openmetrics-text; version=1.0.0") == 200
        if transport == ENVOY:
            until(every_place_is_answered)  # for a moment, Envoy may still count a closed connection
        with grpc.insecure_channel(server.address) as channel, connect():
            may_send = threading.Event()
            begun: Any = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
            # This call stays in flight, because its message never arrives.
            begun = begun.future(iter(may_send.wait, True), timeout=TIMEOUT)
            live = InferenceStub(channel).ServerLive
            assert live(inference_pb2.ServerLiveRequest(), timeout=TIMEOUT).live
            server.signal(signal.SIGTERM)
            server.wait_for("stopping")
            until(lambda: status("/v2/health/ready") == 503)
            assert status("/v2/health/live") == 200
            begun.cancel()
            may_send.set()
            assert server.wait() == 0  # a client that is connected to the metrics port does not delay the stop
    assert len([line for line in server.log if "metrics" in line]) == 1
    assert [line for line in server.log if "level=info" not in line and "BEYOND LOOPBACK" not in line] == []
