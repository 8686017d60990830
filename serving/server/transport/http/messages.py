"""A request over HTTP/1.1, the route that answers it, and its response. A response has one body of known length, and
the request's timings in headers."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote, unquote

import httptools
from google.protobuf.message import Message

from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.wire.event_loop import LoopCall
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.status import BATCH_SIZE, COMPUTE_NS, QUEUE_NS, call_status, cost_metadata, status
from hangtag.serving.server.wire.tracing import Metadata

if TYPE_CHECKING:
    from hangtag.serving.server.transport.http.connection import Connection

HTTP_INFER = "POST /v2/models/{model}/infer"
HTTP_CLASSIFY = "POST /v1/classify/{model}"
"""The names that telemetry uses for the methods that query models."""
Header: TypeAlias = tuple[bytes, bytes]
JSON, BINARY = b"application/json", b"application/octet-stream"
_RETRY_LATER: tuple[Header, ...] = ((b"retry-after", b"1"),)
_HEADERS = {401: ((b"www-authenticate", b"Bearer"),), 429: _RETRY_LATER, 503: _RETRY_LATER}
_COST = f"{QUEUE_NS}: %d\r\n{COMPUTE_NS}: %d\r\n{BATCH_SIZE}: %d\r\n".encode()
_TIMES = b"server-timing: queue;dur=%.3f, compute;dur=%.3f\r\n"


class HttpRequest(LoopCall):
    """A request's head, the part of its body that has arrived so far, and the outcome. A request for inference is also
    the call in its model's queue.

    The outcome is an `HttpResponse`, or the bytes of a response with status 200 from the headers on.

    Attributes:
        target: The path and the query, as received.
        path: The percent-decoded path.
        fields: The headers, with lower-case names, in their order.
        body: The part of the body that has arrived; empty after the body was refused or passed on.
        held: How many bytes of the `BodyBudget` the request holds; None after they were released.
        keeps_open: Whether the client accepts further answers on the connection.
        is_answered: Whether the response has been written to the connection.
        task: The task that answers the request; None if a model answers it.
    """

    method = HTTP_INFER
    path_params: Mapping[str, str] = {}
    """The values of the parameters in the route's path."""
    is_whole = awaits_continue = is_answered = False
    task: "asyncio.Task[None] | None" = None

    def __init__(
        self, connection: "Connection", verb: str, target: bytes, fields: list[tuple[bytes, bytes]], *, keeps_open: bool
    ) -> None:
        """Read the target. Raises httptools.HttpParserInvalidURLError or UnicodeDecodeError."""
        url = httptools.parse_url(target)
        self.connection = connection
        self.calls, self.budget = connection.server.calls, connection.server.budget
        self.intake = self.calls.intake
        self.verb = verb
        self.target = target
        self.fields = fields
        self.keeps_open = keeps_open
        self.path = (url.path or b"/").decode("ascii")
        if "%" in self.path:
            self.path = unquote(self.path)
        self.body: bytes | bytearray = b""
        self.held: int | None = 0

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
        """Return the body and remove it from the request."""
        body, self.body = self.body, b""
        return bytes(body)

    def respond(self, response: Any, timings: Timings) -> None:
        if isinstance(response, bytes):
            assert self.plan is not None
            response = written(cost_headers(self.plan.model.name, self.plan.model.version, timings)) + response
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
        model, compute_ns = calls[0].plan.model, cost.compute_ns
        answered = written(answered_by(model.name, model.version))
        for call, response in zip(calls, responses, strict=True):
            if cost.member:
                call.respond(response, call.timings_of(cost))
                continue
            queue_ns = call.queue_ns
            spent = _COST % (queue_ns, compute_ns, cost.batch_size) + _TIMES % (queue_ns / 1e6, compute_ns / 1e6)
            call.outcome = answered + spent + response
            call.calls.hand_over(call)


def origin_of(method: str, request: HttpRequest) -> Origin:
    """Return the origin of a request. ``method`` is the HTTP method and the route."""
    return Origin(method, request.metadata)


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
    return HttpResponse(to_json(value), JSON, status, headers)


def to_json(value: object) -> bytes:
    """Serialize to JSON as ASCII. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def error_response(error: Exception, method: str, request: object = None) -> HttpResponse:
    """Return the response for an error, with the same message as over gRPC. A log entry contains the method and
    ``request``'s model and id."""
    code = status(error).http
    return json_response({"error": call_status(error, method, request)[1]}, code, _HEADERS.get(code, ()))


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with the field names of the .proto files. Enumerations become names. Fields that
    are not set have their defaults, except messages and optional fields, which are left out.

    protobuf's own json_format writes 64-bit numbers as strings, which clients of the protocol do not read.
    """
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


def cost_headers(model: str, version: str, timings: Timings, preprocess_ns: int = 0) -> Sequence[Header]:
    """Return the headers that say which model answered, and how long each step took. ``preprocess_ns`` is the time for
    decoding and converting an image. ``server-timing`` repeats the times for browsers' developer tools."""
    times = b"queue;dur=%.3f, compute;dur=%.3f" % (timings.queue_ns / 1e6, timings.compute_ns / 1e6)
    if preprocess_ns:
        times = b"preprocess;dur=%.3f, %b" % (preprocess_ns / 1e6, times)
    answered = answered_by(model, version)
    return (
        *(answered[1:] if timings.stages else answered),  # a route's cost metadata names the models that answered
        *[(name.encode(), value.encode()) for name, value in cost_metadata(timings)],
        (b"server-timing", times),
    )


@lru_cache(maxsize=256)
def answered_by(model: str, version: str) -> tuple[Header, ...]:
    """Return the headers that say which model answered."""
    return (b"hangtag-model", quote(model).encode()), (b"hangtag-model-version", version.encode())


def written(headers: Iterable[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
