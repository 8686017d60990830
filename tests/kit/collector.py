"""A collector of OpenTelemetry's traces, to which a server sends its spans."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from tests.kit.other_servers import grpc_server
from tests.kit.waiting import until

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"
"""The header of a call whose caller's span is PARENT in TRACE."""


class Collector:
    """A collector that records the spans of a server whose otlp_endpoint is ``endpoint``."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._resources: tuple[Any, ...] = ()

    def export(self, requests: Iterator[bytes], _context: object) -> Iterator[Any]:
        for request in requests:
            self._resources += tuple(trace_service_pb2.ExportTraceServiceRequest.FromString(request).resource_spans)
            yield trace_service_pb2.ExportTraceServiceResponse()

    @property
    def resources(self) -> list[Any]:
        """The received messages, each of which has a description of the server and spans."""
        return list(self._resources)

    @property
    def spans(self) -> list[Any]:
        """The received spans, in the order in which they came."""
        return [span for resource in self.resources for scope in resource.scope_spans for span in scope.spans]

    def wait_for(self, name: str) -> Any:
        """Wait for a span whose name ends with this text, and return the first such span."""
        until(lambda: any(span.name.endswith(name) for span in self.spans))
        return next(span for span in self.spans if span.name.endswith(name))


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span or of a resource, by their names."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    with grpc_server({EXPORT: collector.export}, threads=1) as address:
        collector.endpoint = f"http://{address}"
        yield collector
