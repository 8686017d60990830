"""What an HTTP request says of itself: its headers, for telemetry and for routes."""

from typing import Any

from hangtag.serving.server.transport.call import CallOrigin, LazyMetadata
from hangtag.serving.server.transport.tracing import Tracing


def describe_call(method: str, scope: Any, tracing: Tracing | None) -> CallOrigin:
    """Return what telemetry and routes need to know of a request."""
    return CallOrigin(method, LazyMetadata(lambda: request_headers(scope)), tracing)


def request_headers(scope: Any) -> tuple[tuple[str, str], ...]:
    """Return the headers of a request as text, by lower-case names."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
