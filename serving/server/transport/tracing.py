"""OpenTelemetry traces, as a child of the caller's span (W3C's traceparent in the metadata). Needs the extra ``otel``.

A span is made when its call has ended, with the times that were measured anyway: the queue and the computation are its
children. So the call pays for nothing while it runs, and any path that serves a call can tell of it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.log import redirect_library_log
from hangtag.serving.server.transport.grpc.unary_call import BATCH_SIZE, COMPUTE_NS, QUEUE_NS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log = structlog.get_logger()

TRACED = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/hangtag.v1.Classifier/Classify",
    "/hangtag.v1.Classifier/ClassifyStream",
    "/hangtag.v1.Classifier/Compare",
)
"""What asks models. A stream is one span, from its first request to its last answer."""
CLOSE_SECONDS = 2.0
"""How long the end of the server waits for the collector."""
Metadata = Iterable[tuple[str, str | bytes]]
# A server's span is an error where the server is at fault (OpenTelemetry's conventions for RPC).
_AT_FAULT = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


class Tracing:
    """Sends spans to a collector. Thread-safe."""

    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        redirect_library_log("opentelemetry")  # it tells of each header that a caller has got wrong
        resource = Resource({SERVICE_NAME: "hangtag"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # sampling: OTEL_TRACES_SAMPLER
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hangtag")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, endpoint: str) -> "Tracing | None":
        """To an OTLP collector over gRPC; nowhere without an endpoint. Raises StartError without the extra."""
        if not endpoint:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise StartError(
                f"--otlp-endpoint needs the Python module {error.name!r}; install it with: pip install '.[otel]'"
            ) from error
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))))

    def record(self, method: str, metadata: Metadata, started_ns: int, code: str, trailing: Metadata) -> None:
        """Tell of a call that has just ended. started_ns: nanoseconds since the epoch; code: the status's name."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        ended_ns = time.time_ns()
        context = self._propagator.extract({key: value for key, value in metadata if isinstance(value, str)})
        service, _, name = method.removeprefix("/").partition("/")
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "rpc.grpc.status_code": getattr(grpc.StatusCode, code).value[0],
        }
        cost = _cost(trailing)
        if BATCH_SIZE in cost:
            attributes["hangtag.batch_size"] = cost[BATCH_SIZE]
        span = self._tracer.start_span(
            f"{service}/{name}", context, kind=SpanKind.SERVER, attributes=attributes, start_time=started_ns
        )
        if code in _AT_FAULT:
            span.set_status(Status(StatusCode.ERROR, code))
        if span.is_recording() and COMPUTE_NS in cost:
            self._children(span, ended_ns, cost)
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, unless the collector takes too long: the exporter alone would try for many seconds more,
        and whoever stops a server kills it after some."""
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)
        if sending.is_alive():
            log.warning("the last spans are lost: the collector has not taken them", seconds=CLOSE_SECONDS)

    def _children(self, span: Any, ended_ns: int, cost: Mapping[str, int]) -> None:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(span)
        computed = ended_ns  # the answer leaves as soon as it is computed
        taken = computed - cost[COMPUTE_NS]
        for name, start, end in (
            ("queue", taken - cost.get(QUEUE_NS, 0), taken),
            ("compute", taken, computed),
        ):
            self._tracer.start_span(name, inside, start_time=start).end(end)


class TracesCalls(grpc.ServerInterceptor):
    """Records the calls of TRACED on grpcio's ordinary path."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in TRACED:
            return handler
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if (answer_each := handler.stream_stream) is not None:

            def traced_stream(requests: Iterator[object], context: Any) -> Iterator[object]:
                with self._recorded(method, context):
                    yield from answer_each(requests, context)

            return grpc.stream_stream_rpc_method_handler(
                traced_stream, request_deserializer=parse, response_serializer=serialize
            )
        answer = handler.unary_unary

        def traced(request: object, context: Any) -> object:
            with self._recorded(method, context):
                return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(traced, request_deserializer=parse, response_serializer=serialize)

    @contextmanager
    def _recorded(self, method: str, context: Any) -> Iterator[None]:
        started = time.time_ns()
        try:
            yield
        finally:
            trailing = context.trailing_metadata() or ()
            self._tracing.record(method, context.invocation_metadata(), started, _code(context), trailing)


def _code(context: Any) -> str:
    """How a call ended; where the server did not say it, whether its client was still there."""
    said = context.code()
    if said is None:
        said = grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
    name: str = said.name
    return name


def _cost(trailing: Metadata) -> dict[str, int]:
    return {key: int(value) for key, value in trailing if key in (QUEUE_NS, COMPUTE_NS, BATCH_SIZE)}
