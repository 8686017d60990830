"""Decompresses the bodies of requests within limits, reads forms, and compresses the bodies of responses."""

import asyncio
import re
import zlib
from threading import Lock

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from hangtag.serving.server import errors
from hangtag.serving.server.transport.http.messages import HttpRequest

_FORMATS = {b"gzip": 31, b"deflate": 15}  # zlib's wbits; HTTP's deflate is the zlib format
_CHUNK = 64 * 1024
_MAX_MEMBERS = 16 * 1024
"""The maximum number of members of a gzip body, because each member takes time, even if it is empty."""
COMPRESS_FROM = 1024
"""Responses of at least this many bytes are compressed; for a smaller response the gain is less than the cost."""
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 16 * 1024
"""Size limit of a form's text field: room for the most models that can be compared, with long names and versions."""
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
"""A boundary of a form, as RFC 2046 defines it."""


class BodyBudget:
    """The memory limit that all request bodies in flight in a process share, because a client may send a large body on
    each of many connections. Thread-safe."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._lock = Lock()

    def hold(self, request: HttpRequest, count: int) -> None:
        """Set the number of bytes that a request holds. Raises QueueFullError if too few bytes are left, and
        CancelledError if the request's bytes were released already."""
        with self._lock:
            if request.held is None:
                raise errors.CancelledError("the caller left before the request was decoded")
            more = count - request.held
            if more > 0 and self._taken + more > self._total:
                raise errors.QueueFullError(
                    f"the bodies of all HTTP requests in flight would take more than {self._total:,} bytes "
                    "(--max-http-bodies-mib); try again later, or another replica"
                )
            self._taken += more
            request.held = count

    def release(self, request: HttpRequest) -> None:
        """Release all bytes of a request. If a thread still decodes the request, its next ``hold`` fails."""
        with self._lock:
            self._taken -= request.held or 0
            request.held = None


async def decompressed(request: HttpRequest) -> bytes:
    """Call `decompress` on a thread if the body is compressed, so that other requests continue."""
    if b"content-encoding" not in request.headers:
        return request.take_body()
    return await asyncio.to_thread(decompress, request)


def decompress(request: HttpRequest) -> bytes:
    """Remove the body from a request, decompress it as its Content-Encoding says, and return it. A gzip body has
    one or several members (RFC 1952). Decompression stops when the result exceeds the limit of a body, or of all bodies
    together. Raises UnsupportedEncodingError, MessageTooLargeError, InvalidRequestError if the body is damaged, and the
    errors of `BodyBudget.hold`."""
    body, limit = request.take_body(), request.intake.max_message_bytes
    name = request.headers.get(b"content-encoding", b"").strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in _FORMATS:
        raise errors.UnsupportedEncodingError(
            f"the Content-Encoding {name.decode('latin-1')!r} is not supported; send gzip, deflate, or none"
        )
    view, at, size, members = memoryview(body), 0, 0, 1
    parts: list[bytes] = []
    stream = zlib.decompressobj(_FORMATS[name])
    while at < len(body):
        if stream.eof:  # another member follows
            members += 1
            if name != b"gzip":
                raise errors.InvalidRequestError(f"the body has trailing bytes after its {name.decode()} data")
            if members > _MAX_MEMBERS:
                raise errors.InvalidRequestError(f"the gzip body has more than {_MAX_MEMBERS:,} members")
            stream = zlib.decompressobj(_FORMATS[name])
        chunk = view[at : at + _CHUNK]
        try:
            parts.append(stream.decompress(chunk, limit + 1 - size))
        except zlib.error as error:
            raise errors.InvalidRequestError(
                f"the Content-Encoding is {name.decode()}, but the body has another format: {error}"
            ) from error
        at += len(chunk) - len(stream.unused_data)
        size += len(parts[-1])
        if size > limit:
            text = f"SERVER: Received message larger than max ({limit} bytes when decompressed)"
            raise errors.MessageTooLargeError(text)
        request.budget.hold(request, len(body) + size)
    if not stream.eof:
        raise errors.InvalidRequestError(f"the {name.decode()} body ends early")
    return b"".join(parts)


def parse_form(content_type: str, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Return an HTML form's file and other fields. Raises InvalidRequestError if it is malformed, or has no file."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise errors.InvalidRequestError("the form cannot be read: there is no boundary as RFC 2046 describes it")
    files: list[File] = []
    fields: list[tuple[str, str]] = []

    def take_file(file: File) -> None:
        if files:
            raise FormParserError("the form has more than one file")
        files.append(file)

    def take_field(field: Field) -> None:
        value = field.value or b""
        if len(fields) == _MAX_FIELDS or len(value) > _MAX_FIELD_BYTES:
            most = f"{_MAX_FIELDS} fields, or a field of more than {_MAX_FIELD_BYTES >> 10} KiB"
            raise FormParserError(f"the form has more than {most}")
        # The charset that the form declares is ignored, because some of Python's decoders take quadratic time.
        fields.append(((field.field_name or b"").decode(errors="replace"), value.decode(errors="replace")))

    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    parser = FormParser("multipart/form-data", take_field, take_file, boundary=boundary, config=in_memory)
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise errors.InvalidRequestError(f"the form cannot be read: {error}") from error
    if not files:
        raise errors.InvalidRequestError("the form has no file; send the image as a file (curl: -F image=@coat.png)")
    files[0].file_object.seek(0)
    return files[0].file_object.read(), fields


def compress(body: bytes, accepted: bytes) -> tuple[bytes, bytes]:
    """Compress the body of a response if the value of Accept-Encoding allows this and the gain exceeds the cost. Return
    the body and its encoding, which is b"" for an uncompressed body."""
    parts = [part.partition(b";") for part in accepted[:1024].split(b",")]
    names = {name.strip().lower(): weight.replace(b" ", b"") for name, _, weight in parts}
    encoding = next((name for name in _FORMATS if name in names and names[name] not in (b"q=0", b"q=0.0")), b"")
    if not encoding or len(body) < COMPRESS_FROM:
        return body, b""
    stream = zlib.compressobj(level=1, wbits=_FORMATS[encoding])
    return stream.compress(body) + stream.flush(), encoding
