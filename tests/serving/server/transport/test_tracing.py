"""The spans that a collector receives from a real server."""

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing
from opentelemetry.proto.trace.v1 import trace_pb2

from hangtag.extras import MissingExtraError
from hangtag.protos import classifier_pb2
from hangtag.serving.server.config.limits import Limits
from tests.kit.collector import PARENT, TRACE, TRACEPARENT, Collector, attributes, collecting
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.over_http import HTTP, OVER_GRPC, live_server
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT, until

CODE = "rpc.grpc.status_code"
ERROR, UNSET = trace_pb2.Status.STATUS_CODE_ERROR, trace_pb2.Status.STATUS_CODE_UNSET
INFER = {HTTP: "POST /v2/models/{model}/infer"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def traced(models: Path, transport: str, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """A server that sends its spans after 20 ms, and the last ones when it stops."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds
    limits = Limits(trace_close_seconds=TIMEOUT)
    with live_server(transport, models, otlp_endpoint=collector.endpoint, limits=limits) as live:
        yield live


def infer(live: LiveServer, *metadata: tuple[str, Any], model: str = "gather", **inputs: Any) -> Any:
    sent = request(model, **(inputs or {"index": index(1)}))
    return live.inference.ModelInfer(sent, timeout=TIMEOUT, metadata=metadata)


def spans(live: LiveServer, collector: Collector, method: str) -> list[Any]:
    """Stop the server, and return the spans of the calls to a method, in the order of the calls."""
    live.server.stop(grace=10)  # a span may end a little after its call
    return sorted(
        (span for span in collector.spans if span.name.endswith(method)), key=lambda span: span.start_time_unix_nano
    )


def identifiers(span: Any) -> tuple[int, int]:
    """The id of a span's trace, and the id of its parent span. A span without a parent has 0 as the second id."""
    return int.from_bytes(span.trace_id, "big"), int.from_bytes(span.parent_span_id, "big")


def test_a_call_is_a_child_of_its_callers_span_and_the_queue_and_the_computation_are_its_children(
    traced: LiveServer, collector: Collector, transport: str
) -> None:
    infer(traced, ("traceparent", TRACEPARENT), index=index(1, 2, 3))
    (span,) = spans(traced, collector, INFER.get(transport, "ModelInfer"))
    assert identifiers(span) == (TRACE, PARENT)
    assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
    named = attributes(span)
    assert named.pop("hangtag.batch_size") == 3
    assert named == (
        {"http.request.method": "POST", "http.route": "/v2/models/{model}/infer", "hangtag.status": "OK"}
        if transport == HTTP
        else {
            "rpc.system": "grpc",
            "rpc.service": "inference.GRPCInferenceService",
            "rpc.method": "ModelInfer",
            "rpc.grpc.status_code": 0,
        }
    )
    queue, compute = (next(each for each in collector.spans if each.name == name) for name in ("queue", "compute"))
    assert {identifiers(child) for child in (queue, compute)} == {(TRACE, int.from_bytes(span.span_id, "big"))}
    assert span.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano < compute.end_time_unix_nano
    assert compute.end_time_unix_nano == span.end_time_unix_nano
    assert attributes(collector.resources[0].resource)["service.name"] == "hangtag"


def test_nothing_but_the_identifiers_of_a_trace_is_taken_from_a_caller_and_malformed_ones_are_ignored(
    traced: LiveServer, collector: Collector, transport: str
) -> None:
    malformed = ("nonsense", "00-0-0-00", TRACEPARENT[:-1] + "x", "ff" * 1000)
    with structlog.testing.capture_logs() as log:
        for state in ("vendor=value", "!!!=malformed"):
            infer(traced, ("traceparent", TRACEPARENT), ("tracestate", state), ("baggage", "key=value"))
        infer(traced)
        for value in malformed:
            infer(traced, ("traceparent", value))
        infer(traced, ("traceparent", TRACEPARENT[:-1] + "0"))  # this caller does not sample the trace
        recorded = spans(traced, collector, INFER.get(transport, "ModelInfer"))
    assert [identifiers(span) for span in recorded[:2]] == [(TRACE, PARENT)] * 2
    assert [identifiers(span)[1] for span in recorded[2:]] == [0] * (1 + len(malformed))
    assert {span.trace_state for span in recorded} == {""}
    assert not [value for value in (*malformed, "vendor", "!!!", "key=value", TRACEPARENT) if value in str(log)]


def test_an_error_of_the_server_is_recorded_as_one_and_a_callers_is_not(
    traced: LiveServer, collector: Collector, transport: str
) -> None:
    with traced.gates.failing("gather"):
        failure(lambda: infer(traced))
    failure(lambda: infer(traced, model="nobody"))
    sent = classifier_pb2.ClassifyRequest(model_name="nobody", encoded=b"none")
    failure(lambda: traced.classifier.Classify(sent, timeout=TIMEOUT))
    classified = "POST /v1/classify/{model}" if transport == HTTP else "Classifier/Classify"
    recorded = spans(traced, collector, INFER.get(transport, "ModelInfer")) + spans(traced, collector, classified)
    assert [span.status.code for span in recorded] == [ERROR, UNSET, UNSET]
    codes = [attributes(span)["hangtag.status" if transport == HTTP else CODE] for span in recorded]
    expected = [grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND]
    assert codes == [code.name if transport == HTTP else code.value[0] for code in expected]


@OVER_GRPC
def test_undecodable_bytes_refused_comparisons_and_each_request_of_a_stream_have_spans(
    traced: LiveServer, collector: Collector
) -> None:
    metadata: list[tuple[str, Any]] = [("traceparent", TRACEPARENT), ("b-bin", b"\xff")]
    call: Any = traced.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    failure(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT, metadata=metadata))
    twice = classifier_pb2.CompareRequest(models=[classifier_pb2.ModelChoice(name="gather")] * 2, encoded=b"none")
    failure(lambda: traced.classifier.Compare(twice, timeout=TIMEOUT, metadata=metadata))
    sent = [request("gather", index=index(1)), request("nobody", index=index(1))]
    answers = list(traced.inference.ModelStreamInfer(iter(sent), timeout=TIMEOUT, metadata=metadata))
    assert [bool(answer.error_message) for answer in answers] == [False, True]
    with traced.gates.closed("gather") as gate:
        stream = traced.inference.ModelStreamInfer(iter(sent[:1]), timeout=TIMEOUT, metadata=metadata)
        gate.wait_until_computing()
        stream.cancel()
        # Wait for the span, because a stopping server would end the stream with another status.
        until(lambda: sum(span.name.endswith("ModelStreamInfer") for span in collector.spans) == 3)
    invalid, not_found = grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0]
    for method, codes in {
        "ModelInfer": [invalid],
        "Compare": [invalid],
        "ModelStreamInfer": [0, not_found, grpc.StatusCode.CANCELLED.value[0]],
    }.items():
        recorded = spans(traced, collector, f"/{method}")
        assert [identifiers(span) for span in recorded] == [(TRACE, PARENT)] * len(codes)
        assert sorted(attributes(span)[CODE] for span in recorded) == sorted(codes)
        assert {span.status.code for span in recorded} == {UNSET}


def test_the_log_says_why_the_collector_gets_no_spans(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenTelemetry's own messages are written in full, because they cannot contain anything from a caller."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    with (
        structlog.testing.capture_logs() as log,
        live_server("native", models, otlp_endpoint="http://127.0.0.1:1") as live,
    ):
        infer(live)
        live.server.stop()
    reasons = [line["reason"] for line in log if line["event"].startswith("opentelemetry.")]
    assert any("UNAVAILABLE" in reason and "127.0.0.1:1" in reason for reason in reasons), reasons
    assert capfd.readouterr().err == ""


def test_a_collector_that_does_not_answer_does_not_delay_the_stop(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    with socket.create_server(("127.0.0.1", 0)) as silent, structlog.testing.capture_logs() as logs:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        limits = Limits(trace_close_seconds=0.1)
        with live_server("native", models, otlp_endpoint=endpoint, limits=limits) as live:
            infer(live)
        warnings = [entry for entry in logs if entry["log_level"] == "warning"]
        assert [entry["event"] for entry in warnings] == ["the last spans are lost: the collector did not accept them"]
        # The test waits until the exporter has logged its failure, so that the line is not in another test's output.
        for thread in threading.enumerate():
            if thread.name == "last-spans":
                thread.join(TIMEOUT)


def test_without_the_extra_the_error_says_how_to_install_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with (
        pytest.raises(MissingExtraError, match=r"--otlp-endpoint needs the Python module .*pip install '\.\[otel\]'"),
        server(models, otlp_endpoint="http://127.0.0.1:1"),
    ):
        pass
