"""A request over HTTP/1.1, the route that answers it, and its response. A response has one body of known length, and
the request's timings in headers."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

import httptools
from google.protobuf.message import Message

from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.http.bodies import HeldBytes, decompress
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.status import call_status, cost_metadata, status

HTTP_INFER = "POST /v2/models/{model}/infer"
HTTP_CLASSIFY = "POST /v1/classify/{model}"
"""The names in telemetry of the methods that query models."""
Header: TypeAlias = tuple[bytes, bytes]
JSON, BINARY = b"application/json", b"application/octet-stream"
RETRY_AFTER_SECONDS = b"1"
_HEADERS: dict[int, tuple[Header, ...]] = {
    401: ((b"www-authenticate", b"Bearer"),),
    429: ((b"retry-after", RETRY_AFTER_SECONDS),),
    503: ((b"retry-after", RETRY_AFTER_SECONDS),),
}


class HttpRequest:
    """A request's head, and the part of its body that has arrived so far.

    Attributes:
        method: For example "POST".
        target: The path and the query, as received.
        path: The percent-decoded path.
        query: The part after the question mark, as received.
        fields: The headers, with lower-case names, in their order.
        body: The part of the body that has arrived; empty after the body was refused or passed on.
        held: The body's share of the memory for all bodies.
        is_whole: Whether the whole body has arrived.
        keeps_open: Whether the client accepts further answers on the connection.
        awaits_continue: Whether the client waits for "100 Continue" before it sends its body.
        response: The response, once it is known. A response in bytes has status 200, and starts with the headers.
        is_answered: Whether the response has been written to the connection.
    """

    path_params: Mapping[str, str] = {}
    """The values of the parameters in the route's path."""

    def __init__(
        self, method: str, target: bytes, fields: list[tuple[bytes, bytes]], held: HeldBytes, *, keeps_open: bool
    ) -> None:
        """Read the target. An invalid target raises httptools.HttpParserInvalidURLError or UnicodeDecodeError."""
        url = httptools.parse_url(target)
        self.method = method
        self.target = target
        self.query: bytes = url.query or b""
        self.fields = fields
        self.held = held
        self.keeps_open = keeps_open
        self.path = (url.path or b"/").decode("ascii")
        if "%" in self.path:
            self.path = unquote(self.path)
        self.body: bytes | bytearray = b""
        self.is_whole = False
        self.awaits_continue = False
        self.response: HttpResponse | bytes | None = None
        self.is_answered = False

    @cached_property
    def headers(self) -> dict[bytes, bytes]:
        """The headers by lower-case name. A name that occurs twice has its last value."""
        return dict(self.fields)

    def header(self, name: str) -> str:
        """Return a header's value as text, or "" without the header."""
        return self.headers.get(name.encode(), b"").decode("latin-1")

    @property
    def query_items(self) -> list[tuple[str, str]]:
        """Return the names and values of the query."""
        return parse_qsl(self.query.decode("latin-1"), keep_blank_values=True)

    def take_body(self) -> bytes:
        """Return the body and remove it from the request."""
        body, self.body = self.body, b""
        return bytes(body)


async def decompressed(request: HttpRequest) -> bytes:
    """Return the body of a request without its Content-Encoding. A thread decompresses the body, so that other requests
    continue.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The decompressed body would be larger than the limit.
        QueueFullError: The bodies in flight have reached their memory limit.
        InvalidRequestError: The body is damaged or ends early.
        CancelledError: The caller has left.
    """
    body = request.take_body()
    encoding = request.headers.get(b"content-encoding")
    return body if encoding is None else await asyncio.to_thread(decompress, body, encoding, request.held)


def origin_of(method: str, request: HttpRequest, deadline: float | None = None) -> Origin:
    """Return what telemetry, routes and queues need to know about a request. ``method`` is the HTTP method and the
    route."""
    return Origin(method, request_metadata(request), deadline)


def request_metadata(request: HttpRequest) -> tuple[tuple[str, str], ...]:
    """Return the headers of a request as text, with lower-case names."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.fields)


class HttpResponse:
    """A response with a Content-Length."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, content_type: bytes, status: int = 200, headers: Iterable[Header] = ()) -> None:
        self.body = body
        self.status = status
        self.headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]


Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]
_PARAMETER = re.compile(r"\\{(\w+)(:path)?\\}")
"""A parameter of a path, after re.escape."""


class Route:
    """A path, the methods that it accepts, and the endpoint that answers. The endpoint raises domain errors."""

    def __init__(self, path: str, endpoint: Endpoint, methods: Sequence[str] = ("GET", "HEAD")) -> None:
        """``path`` may have parameters, such as {model}. A parameter that ends with ``:path`` may contain a slash."""
        self.endpoint = endpoint
        self.methods = methods
        with_groups = _PARAMETER.sub(lambda match: rf"(?P<{match[1]}>{'.*' if match[2] else '[^/]+'})", re.escape(path))
        self.pattern = re.compile(with_groups)


def no_such_path(allow: Sequence[str] = ()) -> HttpResponse:
    """Return the error for an unknown path, or for a method that the path does not accept. ``allow`` has the methods
    that the path accepts."""
    if not allow:
        return json_response({"error": "there is no such path; GET /openapi.json describes all paths"}, 404)
    methods = ", ".join(allow)
    text = f"this path accepts only {methods}; GET /openapi.json describes the path"
    return json_response({"error": text}, 405, [(b"allow", methods.encode())])


def json_response(value: object, status: int = 200, headers: Iterable[Header] = ()) -> HttpResponse:
    """Return a response of JSON."""
    return HttpResponse(to_json(value), JSON, status, headers)


def to_json(value: object) -> bytes:
    """Serialize to JSON as ASCII. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def error_response(error: Exception, method: str, request: object = None) -> HttpResponse:
    """Return the response for an error, with the same message as over gRPC.

    Args:
        error: The error that ended the request.
        method: The request's method and route, for the log.
        request: The request, whose model and id are logged.
    """
    code = status(error).http
    return json_response({"error": call_status(error, method, request)[1]}, code, _HEADERS.get(code, ()))


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with the field names of the .proto files. Enumerations become names. Fields that
    are not set have their defaults, except messages and optional fields, which are left out.

    protobuf's own json_format writes 64-bit numbers as strings, which clients of the protocol do not read.
    """
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of_value = kind.fields_by_name["value"]
        return {str(key): _single(of_value, value[key]) for key in value}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_dict(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value


def cost_headers(model: str, version: str, timings: Timings, preprocess_ns: int = 0) -> Sequence[Header]:
    """Return the headers that say which model answered, and how long each step took.

    ``server-timing`` repeats the times in milliseconds for browsers' developer tools.

    Args:
        model: The model's name.
        version: The version that answered.
        timings: The time in the queue and the time of the computation.
        preprocess_ns: The time for decoding and converting an image.
    """
    times = b"queue;dur=%.3f, compute;dur=%.3f" % (timings.queue_ns / 1e6, timings.compute_ns / 1e6)
    if preprocess_ns:
        times = b"preprocess;dur=%.3f, %b" % (preprocess_ns / 1e6, times)
    answered = answered_by(model, version)
    return (
        *(answered[1:] if timings.stages else answered),  # for a route, the models that answered follow below
        *[(name.encode(), value.encode()) for name, value in cost_metadata(timings)],
        (b"server-timing", times),
    )


def answered_by(model: str, version: str) -> tuple[Header, ...]:
    """Return the headers that say which model answered."""
    return (b"hangtag-model", _quoted(model)), (b"hangtag-model-version", version.encode())


def written(headers: Iterable[Header]) -> bytes:
    """Return headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    return quote(name).encode()
