"""OpenTelemetry spans for queries, as children of the caller's span (W3C's traceparent in the metadata).

A query's span is created when the query has ended, from times that are measured anyway, so tracing does not delay a
running query. A query's child spans are the queue and the computation. W3C's tracestate and baggage may hold any text
of the caller, so hangtag neither reads nor exports them.
"""

import threading
import time
from collections.abc import Iterable

import grpc
import structlog

from hangtag.extras import needs
from hangtag.serving.server.telemetry.log import redirect_library_log
from hangtag.serving.server.telemetry.model_statistics import Timings

log = structlog.get_logger()

Metadata = Iterable[tuple[str, str | bytes]]
# OpenTelemetry's conventions for RPC: a server's span is an error only for codes that are the server's fault.
_SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


class Tracing:
    """Sends spans to a collector. Thread-safe."""

    def __init__(self, endpoint: str, close_seconds: float) -> None:
        """Send the spans to an OTLP collector over gRPC, and the remaining spans within ``close_seconds`` at the end.
        Raises MissingExtraError."""
        with needs("otel", "--otlp-endpoint"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Only OpenTelemetry's exporter writes logs, which never contain the traceparent.
        redirect_library_log("opentelemetry", with_values=True)
        resource = Resource({SERVICE_NAME: "hangtag"}).merge(OTELResourceDetector().detect())
        self._close_seconds = close_seconds
        # OTEL_TRACES_SAMPLER determines the sampling
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hangtag")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self, method: str, metadata: Metadata, duration_ns: int, code: grpc.StatusCode, timings: Timings | None = None
    ) -> None:
        """Record a query that has just ended. ``duration_ns`` is the time since the query's arrival. A query that was
        not computed has no timings."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        ended_ns = time.time_ns()
        parents = {key: value for key, value in metadata if key == "traceparent" and isinstance(value, str)}
        context = self._propagator.extract(parents)
        attributes = _attributes(method, code)
        if timings is not None:
            attributes["hangtag.batch_size"] = timings.batch_size
        span = self._tracer.start_span(
            method.removeprefix("/"),
            context,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=ended_ns - duration_ns,
        )
        if code.name in _SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR, code.name))
        if span.is_recording() and timings is not None:
            parent = set_span_in_context(span)
            compute_start = ended_ns - timings.compute_ns  # the answer is sent as soon as it is computed
            queue_start = compute_start - timings.queue_ns
            for name, start, end in (("queue", queue_start, compute_start), ("compute", compute_start, ended_ns)):
                self._tracer.start_span(name, parent, start_time=start).end(end)
        span.end(ended_ns)

    def close(self) -> None:
        """Send the remaining spans, within ``close_seconds``. The exporter itself would try for much longer, and an
        orchestrator kills a server that stops too slowly."""
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(self._close_seconds)
        if sending.is_alive():
            log.warning("the last spans are lost: the collector did not accept them", seconds=self._close_seconds)


def _attributes(method: str, code: grpc.StatusCode) -> dict[str, str | int]:
    """Return a span's attributes, according to OpenTelemetry's conventions for RPC and for HTTP."""
    if not method.startswith("/"):
        verb, _, route = method.partition(" ")
        return {"http.request.method": verb, "http.route": route, "hangtag.status": code.name}
    service, _, name = method.removeprefix("/").partition("/")
    return {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": name,
        "rpc.grpc.status_code": code.value[0],
    }
