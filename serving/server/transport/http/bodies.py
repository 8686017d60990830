"""Decompresses the bodies of requests within limits, and compresses the bodies of responses."""

import zlib
from threading import Lock

from hangtag.serving.server.errors import (
    CancelledError,
    InvalidRequestError,
    MessageTooLargeError,
    QueueFullError,
    UnsupportedEncodingError,
)

_FORMATS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits; HTTP's deflate is the zlib format
_CHUNK = 64 * 1024
_MAX_MEMBERS = 16 * 1024
"""The maximum number of members of a gzip body. Even an empty member takes microseconds, and a large body could have a
million members."""
COMPRESS_FROM = 1024
"""Responses of at least this many bytes are compressed; for a smaller response the gain is less than the cost."""
_FASTEST = 1


class BodyBudget:
    """The memory limit that all request bodies in flight in a process share. Each body also has its own limit, but a
    client with many connections could reach this limit on each connection."""

    def __init__(self, total: int) -> None:
        """``total`` is the number of bytes that all bodies in flight may have."""
        self.total = total
        self.taken = 0
        self.lock = Lock()


class HeldBytes:
    """The bytes of a budget that one request holds until ``end``. Thread-safe."""

    __slots__ = ("_budget", "_count", "_ended", "limit")

    def __init__(self, budget: BodyBudget, limit: int) -> None:
        """``limit`` is the maximum number of bytes of the request's body, both as sent and decompressed."""
        self.limit = limit
        self._budget = budget
        self._count = 0
        self._ended = False

    def hold(self, count: int) -> None:
        """Set the number of bytes that the request holds.

        Raises:
            QueueFullError: The budget has too few bytes left. The number of held bytes does not change.
            CancelledError: ``end`` was called.
        """
        budget = self._budget
        with budget.lock:
            if self._ended:
                raise CancelledError("the caller left before the request was decoded")
            more = count - self._count
            if more > 0 and budget.taken + more > budget.total:
                raise QueueFullError(
                    f"the bodies of all HTTP requests in flight would take more than {budget.total:,} bytes "
                    "(--max-http-bodies-mib); try again later, or another replica"
                )
            budget.taken += more
            self._count = count

    def end(self) -> None:
        """Release all bytes. Later calls of ``hold`` fail, because a thread may still decode the request after the
        caller has left."""
        with self._budget.lock:
            self._budget.taken -= self._count
            self._count = 0
            self._ended = True


def decompress(body: bytes, encoding: bytes, held: HeldBytes) -> bytes:
    """Return a body without its Content-Encoding.

    Args:
        body: The body as sent. A gzip body has one or several members (RFC 1952).
        encoding: The value of Content-Encoding, or b"" if there is no such header.
        held: Counts the bytes of the result, and limits them. Decompression stops when the limit is exceeded.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        MessageTooLargeError: The result would be larger than the limit.
        QueueFullError: The bodies in flight have reached their memory limit.
        CancelledError: The caller has left in the meantime.
        InvalidRequestError: The body is damaged or ends early.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in _FORMATS:
        raise UnsupportedEncodingError(
            f"the Content-Encoding {name.decode('latin-1')!r} is not supported; send gzip, deflate, or none"
        )
    view, at, size, members = memoryview(body), 0, 0, 1
    parts: list[bytes] = []
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
        try:
            parts.append(stream.decompress(chunk, held.limit + 1 - size))
        except zlib.error as error:
            raise InvalidRequestError(
                f"the Content-Encoding is {name.decode()}, but the body has another format: {error}"
            ) from error
        at += len(chunk) - len(stream.unused_data)
        size += len(parts[-1])
        if size > held.limit:
            raise MessageTooLargeError(
                f"SERVER: Received message larger than max ({held.limit} bytes when decompressed)"
            )
        held.hold(len(body) + size)
    if not stream.eof:
        raise InvalidRequestError(f"the {name.decode()} body ends early")
    return b"".join(parts)


def compress(body: bytes, accepted: bytes) -> tuple[bytes, bytes]:
    """Compress a response.

    Args:
        body: The response's body.
        accepted: The value of Accept-Encoding. The response gets the first encoding in this value that is gzip or
            deflate.

    Returns:
        The compressed body and its encoding, or the body and b"" if it is better not compressed.
    """
    parts = [part.partition(b";") for part in accepted[:1024].split(b",")]
    names = {name.strip().lower(): weight.replace(b" ", b"") for name, _, weight in parts}
    encoding = next((name for name in _FORMATS if name in names and names[name] not in (b"q=0", b"q=0.0")), b"")
    if not encoding or len(body) < COMPRESS_FROM:
        return body, b""
    stream = zlib.compressobj(_FASTEST, wbits=_FORMATS[encoding])
    return stream.compress(body) + stream.flush(), encoding
