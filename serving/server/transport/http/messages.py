"""A request over HTTP/1.1, the route that answers it, and its response."""

import asyncio
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote, unquote

import httptools
from google.protobuf.message import Message

from hangtag.serving.server.errors import ForeignOriginError
from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.wire.event_loop import LoopCall
from hangtag.serving.server.wire.intake import Metadata
from hangtag.serving.server.wire.status import BATCH_SIZE, COMPUTE_NS, QUEUE_NS, call_status, cost_metadata, status

if TYPE_CHECKING:
    from hangtag.serving.server.transport.http.connection import Connection

HTTP_INFER = "POST /v2/models/{model}/infer"
HTTP_CLASSIFY = "POST /v1/classify/{model}"
"""The names that telemetry uses for the methods that query models."""
JSON, BINARY = b"application/json", b"application/octet-stream"
_RETRY_LATER = b"retry-after: 1\r\n"
_HEADERS = {401: b"www-authenticate: Bearer\r\n", 429: _RETRY_LATER, 503: _RETRY_LATER}
_TIMES = b"queue;dur=%.3f, compute;dur=%.3f"
_COST = f"{QUEUE_NS}: %d\r\n{COMPUTE_NS}: %d\r\n{BATCH_SIZE}: %d\r\n".encode() + b"server-timing: %b\r\n" % _TIMES


class HttpRequest(LoopCall):
    """A request. A request for inference is also the `Call` that waits in the model's queue. The outcome is an
    `HttpResponse`, or the bytes after the status line of a response with status 200."""

    method = HTTP_INFER
    path_params: Mapping[str, Any] = {}
    """The values of the parameters in the route's path."""
    body: bytes | bytearray = b""
    """The part of the body that has arrived; empty after the body was refused or passed on."""
    held: int | None = 0
    """How many bytes of the `BodyBudget` the request holds; None after they were released."""
    is_whole = awaits_continue = False
    is_answered = False
    """Whether the response has been written to the connection."""
    task: "asyncio.Task[None] | None" = None
    """The task that answers the request; None if a model answers it."""

    def __init__(
        self, connection: "Connection", verb: str, target: bytes, fields: list[tuple[bytes, bytes]], *, keeps_open: bool
    ) -> None:
        """``target`` is the path and the query. ``fields`` are the headers, with lower-case names. ``keeps_open`` is
        whether the client accepts further answers on the connection. Raises httptools.HttpParserInvalidURLError or
        UnicodeDecodeError."""
        url = httptools.parse_url(target)
        self.connection = connection
        self.calls, self.budget = connection.server.calls, connection.server.budget
        self.intake = self.calls.intake
        self.verb, self.target, self.fields = verb, target, fields
        self.keeps_open = keeps_open
        self.path = (url.path or b"/").decode("ascii")
        if "%" in self.path:
            self.path = unquote(self.path)

    @cached_property
    def headers(self) -> dict[bytes, bytes]:
        """The headers by lower-case name. If a name occurs twice, the last value counts."""
        return dict(self.fields)

    @property
    def metadata(self) -> Metadata:  # type: ignore[override]  # most requests are answered without their metadata
        return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.fields)

    def header(self, name: str) -> str:
        """Return a header's value as text, or "" if the header is missing."""
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def take_body(self) -> bytes:
        body, self.body = self.body, b""
        return bytes(body)

    def respond(self, response: Any, timings: Timings) -> None:
        if isinstance(response, bytes):
            assert self.plan is not None
            response = cost_headers(self.plan.model.name, self.plan.model.version, timings) + response
        super().respond(response, timings)

    def refuse(self, error: Exception) -> None:
        self.outcome = error_response(error, self.method, self)
        self.calls.hand_over(self)

    def resolve(self) -> None:
        self.connection.go_on_after(self)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
        super().cancel()

    @classmethod
    def send(cls, calls: "Sequence[Self]", responses: Sequence[bytes], cost: BatchCost) -> None:
        assert calls[0].plan is not None
        model, compute_ns, size = calls[0].plan.model, cost.compute_ns, cost.batch_size
        answered = b"".join(_answered_by(model.name, model.version))
        for call, response in zip(calls, responses, strict=True):
            queue_ns = call.queue_ns
            spent = _COST % (queue_ns, compute_ns, size, queue_ns / 1e6, compute_ns / 1e6)
            call.outcome = answered + spent + response
            call.calls.hand_over(call)


class HttpResponse:
    """A response with a Content-Length. The headers are lines that end with CRLF."""

    def __init__(self, body: bytes, content_type: bytes, status: int = 200, headers: bytes = b"") -> None:
        self.body = body
        self.status = status
        self.headers = b"content-type: %b\r\ncontent-length: %d\r\n%b" % (content_type, len(body), headers)


Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]
_LOCALHOST = "localhost"
_PORT = re.compile(r":[0-9]*$")
_MAX_QUOTED = 200
_PARAMETER = re.compile(r"\\{(\w+)(:path)?\\}")
"""A parameter of a path, after re.escape."""


Route: TypeAlias = tuple[re.Pattern[str], Endpoint, Sequence[str]]
"""The pattern of a path, the endpoint that answers, and the methods that the path accepts."""


def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    """``path`` may have parameters, such as {model}. A parameter that ends with ``:path`` may contain a slash."""
    with_groups = _PARAMETER.sub(lambda match: rf"(?P<{match[1]}>{'.*' if match[2] else '[^/]+'})", re.escape(path))
    return re.compile(with_groups), endpoint, methods or ("GET", "HEAD")


def no_such_path(allow: Sequence[str] = ()) -> HttpResponse:
    """Return the error for an unknown path, or for a path that accepts only the methods ``allow``."""
    if not allow:
        return json_response({"error": "there is no such path; GET /openapi.json describes all paths"}, 404)
    methods = ", ".join(allow)
    text = f"this path accepts only {methods}; GET /openapi.json describes the path"
    return json_response({"error": text}, 405, b"allow: %b\r\n" % methods.encode())


def json_response(value: object, status: int = 200, headers: bytes = b"") -> HttpResponse:
    return HttpResponse(to_json(value), JSON, status, headers)


def to_json(value: object) -> bytes:
    """Serialize to JSON as ASCII. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def error_response(error: Exception, method: str, request: object = None) -> HttpResponse:
    """Return the response for an error, with the same message as over gRPC (see `call_status`)."""
    code = status(error).http
    return json_response({"error": call_status(error, method, request)[1]}, code, _HEADERS.get(code, b""))


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with the field names of the .proto files. Fields that are not set have their
    defaults, except messages and optional fields, which are left out. protobuf's own json_format writes 64-bit numbers
    as strings, which clients of the protocol do not read."""
    return {
        field.name: _json_value(getattr(message, field.name), field.enum_type)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _json_value(value: Any, enum: Any) -> Any:
    if isinstance(value, Message):
        return to_dict(value)
    if isinstance(value, MutableMapping):
        return {str(key): _json_value(each, None) for key, each in value.items()}
    if isinstance(value, MutableSequence):
        return [_json_value(each, enum) for each in value]
    return value if enum is None or value not in enum.values_by_number else enum.values_by_number[value].name


def cost_headers(model: str, version: str, timings: Timings, preprocess_ns: int = 0) -> bytes:
    """Return the headers that say which model answered, and how long each step took, including the preparation of an
    image. ``server-timing`` repeats the times for browsers' developer tools."""
    times = _TIMES % (timings.queue_ns / 1e6, timings.compute_ns / 1e6)
    if preprocess_ns:
        times = b"preprocess;dur=%.3f, %b" % (preprocess_ns / 1e6, times)
    name, of_version = _answered_by(model, version)
    cost = "".join(f"{key}: {value}\r\n" for key, value in cost_metadata(timings)).encode()
    # if a route answered, the headers with its cost already name the models
    return b"%b%b%bserver-timing: %b\r\n" % (b"" if timings.stages else name, of_version, cost, times)


@lru_cache(maxsize=256)
def _answered_by(model: str, version: str) -> tuple[bytes, bytes]:
    return b"hangtag-model: %b\r\n" % quote(model).encode(), b"hangtag-model-version: %b\r\n" % version.encode()


def require_host(host: str, allowed: Iterable[str]) -> None:
    """Raise ForeignOriginError if a Host header, which may have a port, does not name this server.

    After a browser has loaded a page of ``evil.example``, this name may resolve to the server's address (DNS
    rebinding). The browser then sends the page's host name in ``Host`` and ``Origin``. It is never an IP address,
    ``localhost`` or an empty name. The operator lists all other names of the server, without a port.
    """
    name = _PORT.sub("", host).lower().rstrip(".")
    names = {"", _LOCALHOST, *(each.lower().rstrip(".") for each in allowed)}
    if name in names or name.endswith(f".{_LOCALHOST}"):
        return
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ForeignOriginError(
            f"this server does not know the host name {host[:_MAX_QUOTED]!r}; call it by its address or as localhost, "
            "or start it with --allowed-host and that name"
        ) from None
