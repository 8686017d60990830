"""A response as one body of known length, and the headers that say who answered and what it cost."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import quote

from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.cost_metadata import cost_metadata

Header: TypeAlias = tuple[bytes, bytes]
JSON, BINARY = b"application/json", b"application/octet-stream"


class HttpResponse:
    """A response; as an ASGI application it sends itself, always with its Content-Length."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, content_type: bytes, status: int = 200, headers: Iterable[Header] = ()) -> None:
        self.body = body
        self.status = status
        self.headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(value: object, status: int = 200, headers: Iterable[Header] = ()) -> HttpResponse:
    """Return a response of JSON."""
    return HttpResponse(to_json(value), JSON, status, headers)


def to_json(value: object) -> bytes:
    """Serialize to JSON as ASCII. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def cost_headers(model: str, version: str, timings: Timings, preprocess_ns: int = 0) -> Sequence[Header]:
    """Return the headers that say which model answered, and what it cost.

    ``server-timing`` has the same times once more, in milliseconds, for the developer tools of browsers.

    Args:
        model: The model's name.
        version: The version that answered.
        timings: In the queue and computing.
        preprocess_ns: Decoding and converting an image.
    """
    times = b"queue;dur=%.3f, compute;dur=%.3f" % (timings.queue_ns / 1e6, timings.compute_ns / 1e6)
    if preprocess_ns:
        times = b"preprocess;dur=%.3f, %b" % (preprocess_ns / 1e6, times)
    answered = () if timings.stages else ((b"hangtag-model", _quoted(model)),)  # else the members, below
    return (
        *answered,
        (b"hangtag-model-version", version.encode()),
        *[(name.encode(), value.encode()) for name, value in cost_metadata(timings)],
        (b"server-timing", times),
    )


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    return quote(name).encode()
