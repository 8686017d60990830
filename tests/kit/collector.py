"""A collector of OpenTelemetry's traces, to which a server sends its spans."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.kit.waiting import until

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"
"""The header of a caller whose own span is PARENT, in TRACE."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets. ``endpoint`` is for a server's otlp_endpoint."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._lock = threading.Lock()
        self._received: list[Any] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def resources(self) -> list[Any]:
        """What came: for each message of a server the server's description and its spans."""
        with self._lock:
            return [resource for request in self._received for resource in request.resource_spans]

    @property
    def spans(self) -> list[Any]:
        """The spans that have come, in this order."""
        return [span for resource in self.resources for scope in resource.scope_spans for span in scope.spans]

    def wait_for(self, name: str) -> Any:
        """Wait for a span whose name ends so; returns the first."""
        until(lambda: any(span.name.endswith(name) for span in self.spans))
        return next(span for span in self.spans if span.name.endswith(name))


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes, or those of a resource, by their names."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens inside the block."""
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
