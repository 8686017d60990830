"""The spans of a real server, in OpenTelemetry's in-memory exporter and in a collector."""

import queue
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hangtag.protos import classifier_pb2
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.tracing import Tracing
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, failure, index, request

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(models: Path, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.setattr(Tracing, "to", lambda *_: Tracing(SimpleSpanProcessor(exporter), 2))
    with LiveServer(ServerConfig(models=models, port=0, http_port=-1)) as live:
        yield live


def spans(live: LiveServer, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    live.server.stop(grace=10)  # a span ends after its call does
    return {span.name.rpartition("/")[2]: span for span in exporter.get_finished_spans()}


def test_a_call_is_a_child_of_its_callers_span(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    sent = request("gather", index=index(1))
    traced.inference.ModelInfer(sent, timeout=TIMEOUT, metadata=[("traceparent", TRACEPARENT)])
    span = spans(traced, exporter)["ModelInfer"]
    assert span.context is not None
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, PARENT)
    assert span.kind is SpanKind.SERVER
    assert span.attributes is not None
    assert {key: span.attributes[key] for key in ("rpc.system", "rpc.method", "rpc.grpc.status_code")} == {
        "rpc.system": "grpc",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time < span.end_time


@pytest.mark.parametrize("state", ["vendor=value", "!!!=malformed"])
def test_nothing_but_the_identifiers_of_a_trace_is_taken_from_a_caller(
    traced: LiveServer, exporter: InMemorySpanExporter, state: str
) -> None:
    metadata = [("traceparent", TRACEPARENT), ("tracestate", state), ("baggage", "key=value")]
    with structlog.testing.capture_logs() as log:
        traced.inference.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT, metadata=metadata)
        span = spans(traced, exporter)["ModelInfer"]
    assert span.context is not None
    assert (span.context.trace_id, len(span.context.trace_state)) == (TRACE, 0)
    assert not [line for line in log if line["log_level"] != "info"]


def test_the_log_says_why_the_collector_gets_no_spans(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenTelemetry's own messages are written whole, for it gets nothing of a caller that could be in them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    endpoint = "http://127.0.0.1:1"
    with structlog.testing.capture_logs() as log:
        config = ServerConfig(models=models, port=0, http_port=-1, otlp_endpoint=endpoint)
        with LiveServer(config) as live:
            live.infer(request("gather", index=index(1)))
    reasons = [line["reason"] for line in log if line["event"].startswith("opentelemetry.")]
    assert any("UNAVAILABLE" in reason and "127.0.0.1:1" in reason for reason in reasons), reasons
    assert capfd.readouterr().err == ""


def test_a_call_without_a_parent_begins_a_trace_and_its_error_is_recorded(
    traced: LiveServer, exporter: InMemorySpanExporter
) -> None:
    with traced.broken("gather"):
        failure(lambda: traced.infer(request("gather", index=index(1))))
    span = spans(traced, exporter)["ModelInfer"]
    assert span.parent is None
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert span.status.status_code is StatusCode.ERROR


def test_a_callers_error_is_not_an_error_of_the_server(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    failure(lambda: traced.infer(request("nobody", index=index(1))))
    assert spans(traced, exporter)["ModelInfer"].status.status_code is StatusCode.UNSET


def test_undecodable_bytes_have_a_span_on_both_transports(
    models: Path, transport: str, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracing, "to", lambda *_: Tracing(SimpleSpanProcessor(exporter), 2))
    with LiveServer(ServerConfig(models=models, port=0, http_port=-1, transport=transport)) as live:
        call: Any = live.channel.unary_unary(METHOD)
        failure(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT, metadata=[("traceparent", TRACEPARENT)]))
        span = spans(live, exporter)["ModelInfer"]
    assert span.parent is not None
    assert span.parent.span_id == PARENT
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_each_request_of_a_stream_is_a_span(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    sent = [request("gather", index=index(1)), request("nobody", index=index(1))]
    metadata = [("traceparent", TRACEPARENT)]
    answers = list(traced.inference.ModelStreamInfer(iter(sent), timeout=TIMEOUT, metadata=metadata))
    assert [bool(answer.error_message) for answer in answers] == [False, True]
    traced.server.stop(grace=10)
    recorded = [span for span in exporter.get_finished_spans() if span.name.endswith("ModelStreamInfer")]
    assert [span.parent and span.parent.span_id for span in recorded] == [PARENT, PARENT]
    codes = {(span.attributes or {})["rpc.grpc.status_code"] for span in recorded}
    assert codes == {0, grpc.StatusCode.NOT_FOUND.value[0]}


def test_the_span_of_a_request_whose_client_leaves_the_stream_is_cancelled(
    traced: LiveServer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = threading.Event()
    export = exporter.export

    def export_and_signal(ended: Sequence[ReadableSpan]) -> SpanExportResult:
        outcome = export(ended)
        exported.set()
        return outcome

    monkeypatch.setattr(exporter, "export", export_and_signal)

    with traced.gate("gather") as gate:
        stream = traced.inference.ModelStreamInfer(iter([request("gather", index=index(1))]), timeout=TIMEOUT)
        gate.wait_until_computing()
        stream.cancel()
        assert exported.wait(TIMEOUT)  # a server that stops would end the stream too, with another status
    span = spans(traced, exporter)["ModelStreamInfer"]
    assert (span.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
    assert span.status.status_code is StatusCode.UNSET


def test_a_comparison_that_is_refused_is_one_span(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    choice = classifier_pb2.ModelChoice(name="gather")
    sent = classifier_pb2.CompareRequest(models=[choice, choice], encoded=b"none")
    failure(lambda: traced.classifier.Compare(sent, timeout=TIMEOUT))
    span = spans(traced, exporter)["Compare"]
    assert (span.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("value", ["", "nonsense", "00-0-0-00", TRACEPARENT[:-1] + "x", "ff" * 5000])
def test_a_malformed_parent_is_ignored(exporter: InMemorySpanExporter, value: str) -> None:
    Tracing(SimpleSpanProcessor(exporter), 2).record(
        METHOD, [("traceparent", value), ("b-bin", b"\xff")], 1, grpc.StatusCode.OK
    )
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


def test_a_call_that_its_caller_does_not_sample_is_not_recorded(exporter: InMemorySpanExporter) -> None:
    Tracing(SimpleSpanProcessor(exporter), 2).record(
        METHOD, [("traceparent", TRACEPARENT[:-1] + "0")], 1, grpc.StatusCode.OK
    )
    assert exporter.get_finished_spans() == ()


def test_the_queue_and_the_computation_are_children(exporter: InMemorySpanExporter) -> None:
    timings = Timings(queue_ns=2000, compute_input_ns=100, compute_infer_ns=300, compute_output_ns=100, batch_size=7)
    Tracing(SimpleSpanProcessor(exporter), 2).record(METHOD, [], 3000, grpc.StatusCode.OK, timings)
    queued, computed, call = exporter.get_finished_spans()
    assert [queued.name, computed.name, call.name] == ["queue", "compute", METHOD[1:]]
    assert (call.attributes or {})["hangtag.batch_size"] == 7
    assert call.end_time == computed.end_time
    assert computed.start_time == queued.end_time
    assert (call.end_time or 0) - (call.start_time or 0) == 3000
    for child, long in ((queued, 2000), (computed, 500)):
        assert child.parent == call.context
        assert (child.end_time or 0) - (child.start_time or 0) == long


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def test_a_collector_gets_the_spans(models: Path) -> None:
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with LiveServer(
        ServerConfig(models=models, port=0, http_port=-1, otlp_endpoint=f"http://127.0.0.1:{port}")
    ) as live:
        live.infer(request("gather", index=index(1)))
    (resource,) = collector.requests.get(timeout=TIMEOUT).resource_spans
    assert ("service.name", "hangtag") in [(one.key, one.value.string_value) for one in resource.resource.attributes]
    assert resource.scope_spans[0].spans[-1].name == METHOD[1:]
    server.stop(0).wait()


def test_a_collector_that_does_not_answer_does_not_delay_the_stop(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        structlog.testing.capture_logs() as logs,
    ):
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with LiveServer(
            ServerConfig(
                models=models,
                port=0,
                http_port=-1,
                otlp_endpoint=endpoint,
                limits=Limits(trace_close_seconds=0.1),
            )
        ) as live:
            live.infer(request("gather", index=index(1)))
        warnings = [entry for entry in logs if entry["log_level"] == "warning"]
        assert [entry["event"] for entry in warnings] == ["the last spans are lost: the collector has not taken them"]
        # The exporter logs its failure later; here, so that the line is in no other test's output.
        for thread in threading.enumerate():
            if thread.name == "last-spans":
                thread.join(TIMEOUT)


def test_without_the_extra_the_error_says_how_to_install_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartError, match=r"--otlp-endpoint needs the Python module .*pip install '\.\[otel\]'"):
        Server(ServerConfig(models=models, otlp_endpoint="http://127.0.0.1:1"))
