"""Reads the bodies of requests within a limit, and compresses those of responses.

The connection (see `connection`) ends a body that comes too slowly.
"""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any

from hangtag.serving.server.errors import CancelledError, InvalidRequestError, MessageTooLargeError
from hangtag.serving.server.transport.http.status import UnsupportedEncodingError

_FORMATS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits; HTTP's deflate is the zlib format
_COMPRESS_FROM = 1024
"""Bytes from which on a response is compressed: a smaller one gains less than it costs."""
_FASTEST = 1


async def read_body(receive: Any, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """Return the body as it was sent.

    Args:
        receive: ASGI's.
        headers: The request's, by lower-case names.
        limit: The most bytes.

    Raises:
        MessageTooLargeError: The body is larger; what remains of it is not read.
        CancelledError: The caller left.
    """
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limit:  # httptools takes digits alone
        raise _too_large(int(declared), limit)
    message = await receive()
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise CancelledError("the caller left before the request was read")
        body: bytes = message["body"]
        _require_within(body, limit)
        return body
    parts = bytearray(message["body"])
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the caller left before the request was read")
        parts += message["body"]
        _require_within(parts, limit)
    return bytes(parts)


async def read_decompressed(receive: Any, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """Return the body without its Content-Encoding. A thread decompresses, so that other requests go on meanwhile.

    Args:
        receive: ASGI's.
        headers: The request's, by lower-case names.
        limit: The most bytes, before and after.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The body is larger, or would become so.
        InvalidRequestError: The body is damaged or ends early.
        CancelledError: The caller left.
    """
    body = await read_body(receive, headers, limit)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else await asyncio.to_thread(decompress, body, encoding, limit)


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a body without its Content-Encoding.

    Args:
        body: As it was sent.
        encoding: The header's value; empty where there is none.
        limit: The most bytes of the result. A body that would become larger is not decompressed further.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The result would be larger than the limit.
        InvalidRequestError: The body is damaged or ends early.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in _FORMATS:
        raise UnsupportedEncodingError(
            f"the Content-Encoding {name.decode('latin-1')!r} is not supported; send gzip, deflate, or none"
        )
    stream = zlib.decompressobj(_FORMATS[name])
    try:
        result = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {name.decode()}, as its Content-Encoding says: {error}") from error
    if len(result) > limit:
        raise MessageTooLargeError(f"SERVER: Received message larger than max ({limit} bytes when decompressed)")
    if not stream.eof or stream.unused_data:
        raise InvalidRequestError(f"the {name.decode()} body ends early, or has more bytes after its end")
    return result


def response_encoding(accepted: bytes) -> bytes:
    """Return the encoding for a response: the first of gzip and deflate that Accept-Encoding has; empty for none."""
    names = {name.strip().lower(): weight.replace(b" ", b"") for name, _, weight in _parts(accepted)}
    return next((name for name in _FORMATS if name in names and names[name] not in (b"q=0", b"q=0.0")), b"")


def compress(body: bytes, encoding: bytes) -> tuple[bytes, bytes]:
    """Return a response's body in an encoding, and the encoding: empty where the body stays as it is."""
    if not encoding or len(body) < _COMPRESS_FROM:
        return body, b""
    stream = zlib.compressobj(_FASTEST, wbits=_FORMATS[encoding])
    return stream.compress(body) + stream.flush(), encoding


def _parts(header: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [part.partition(b";") for part in header[:1024].split(b",")]


def _require_within(body: bytes | bytearray, limit: int) -> None:
    if len(body) > limit:
        raise _too_large(len(body), limit)


def _too_large(size: int, limit: int) -> MessageTooLargeError:
    return MessageTooLargeError(f"SERVER: Received message larger than max ({size} vs. {limit})")
