"""Reads the bodies of requests within limits, and compresses those of responses.

The connection (see `connection`) ends a body that comes too slowly.
"""

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from hangtag.serving.server.errors import (
    CancelledError,
    InvalidRequestError,
    MessageTooLargeError,
    UnsupportedEncodingError,
)
from hangtag.serving.server.transport.http.body_budget import HeldBytes

_FORMATS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits; HTTP's deflate is the zlib format
_CHUNK = 64 * 1024
_MAX_MEMBERS = 16 * 1024
"""Of a gzip body. Each takes microseconds, however small it is, and a large body could have a million empty ones."""
_COMPRESS_FROM = 1024
"""Bytes from which on a response is compressed: a smaller one gains less than it costs."""
_FASTEST = 1


async def read_body(receive: Any, headers: Mapping[bytes, bytes], held: HeldBytes) -> bytes:
    """Return the body as it was sent.

    Args:
        receive: ASGI's.
        headers: The request's, by lower-case names.
        held: Takes the body's bytes as they come, and has its limit.

    Raises:
        MessageTooLargeError: The body is larger than the limit; what remains of it is not read.
        QueueFullError: The bodies in flight take all that they may.
        CancelledError: The caller left.
    """
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > held.limit:  # httptools takes digits alone
        raise _too_large(int(declared), held.limit)
    body = bytearray()  # a list of parts would take much more where each is a byte
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the caller left before the request was read")
        part = message["body"]
        if len(body) + len(part) > held.limit:
            raise _too_large(len(body) + len(part), held.limit)
        held.take(len(part))
        body += part
        more = message.get("more_body", False)
    return bytes(body)


async def read_decompressed(receive: Any, headers: Mapping[bytes, bytes], held: HeldBytes) -> bytes:
    """Return the body without its Content-Encoding. A thread decompresses, so that other requests go on meanwhile.

    Args:
        receive: ASGI's.
        headers: The request's, by lower-case names.
        held: Takes the body's bytes, before and after, and has its limit.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The body is larger, or would become so.
        QueueFullError: The bodies in flight take all that they may.
        InvalidRequestError: The body is damaged or ends early.
        CancelledError: The caller left.
    """
    body = await read_body(receive, headers, held)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else await asyncio.to_thread(decompress, body, encoding, held)


def decompress(body: bytes, encoding: bytes, held: HeldBytes) -> bytes:
    """Return a body without its Content-Encoding.

    Args:
        body: As it was sent; for gzip one or several members (RFC 1952).
        encoding: The header's value; empty where there is none.
        held: Takes the bytes of the result, and has its limit. A body that would become larger is not decompressed
            further.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The result would be larger than the limit.
        QueueFullError: The bodies in flight take all that they may.
        CancelledError: The caller has left meanwhile.
        InvalidRequestError: The body is damaged or ends early.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in _FORMATS:
        raise UnsupportedEncodingError(
            f"the Content-Encoding {name.decode('latin-1')!r} is not supported; send gzip, deflate, or none"
        )
    try:
        return b"".join(_decompressed(body, name, held))
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {name.decode()}, as its Content-Encoding says: {error}") from error


def _decompressed(body: bytes, name: bytes, held: HeldBytes) -> Iterator[bytes]:
    """Yield the decompressed parts. Raises zlib.error for bytes that are not of the format, and decompress's errors."""
    view, at, size, members = memoryview(body), 0, 0, 1
    stream = zlib.decompressobj(_FORMATS[name])
    while at < len(body):
        if stream.eof:  # another member follows
            members += 1
            if name != b"gzip":
                raise InvalidRequestError(f"the {name.decode()} body has more bytes after its end")
            if members > _MAX_MEMBERS:
                raise InvalidRequestError(f"the gzip body has more than {_MAX_MEMBERS:,} members")
            stream = zlib.decompressobj(_FORMATS[name])
        chunk = view[at : at + _CHUNK]
        part = stream.decompress(chunk, held.limit + 1 - size)
        at += len(chunk) - len(stream.unused_data)
        size += len(part)
        if size > held.limit:
            raise MessageTooLargeError(
                f"SERVER: Received message larger than max ({held.limit} bytes when decompressed)"
            )
        held.take(len(part))
        yield part
    if not stream.eof:
        raise InvalidRequestError(f"the {name.decode()} body ends early")


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


def _too_large(size: int, limit: int) -> MessageTooLargeError:
    return MessageTooLargeError(f"SERVER: Received message larger than max ({size} vs. {limit})")
