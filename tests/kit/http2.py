"""Frames of HTTP/2 that no gRPC client or server would send."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """One frame (RFC 9113, 4.1).

    Args:
        kind: The frame's type, such as DATA.
        payload: The frame's contents.
        flags: The frame's flags, such as END_STREAM.
        stream: The stream's number; 0 for the whole connection.
        length: The payload length that the frame declares, in bytes; by default the true length.
    """
    size = len(payload) if length is None else length
    return (
        struct.pack(">I", size & 0xFFFFFF)[1:]
        + bytes([kind & 0xFF, flags & 0xFF])
        + struct.pack(">I", stream)
        + payload
    )


def text(value: str | bytes) -> bytes:
    """A plain string of HPACK (RFC 7541, 5.2), up to 16,510 bytes."""
    plain = value if isinstance(value, bytes) else value.encode()
    beyond = len(plain) - 127
    if beyond < 0:
        return bytes([len(plain)]) + plain
    return bytes([127, beyond] if beyond < 128 else [127, beyond % 128 + 128, beyond // 128]) + plain


def header(name: str, value: str | bytes) -> bytes:
    """A literal header field of HPACK without indexing."""
    return b"\x00" + text(name) + text(value)


HEADER_VALUES: dict[str, str | bytes] = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/inference.GRPCInferenceService/ModelInfer",
    ":authority": "fuzz",
    "content-type": "application/grpc",
    "te": "trailers",
}
CALL = b"".join(header(name, value) for name, value in HEADER_VALUES.items())
OPEN = PREFACE + frame(SETTINGS)


def call(stream: int, *, flags: int = END_HEADERS, path: str | bytes = HEADER_VALUES[":path"]) -> bytes:
    """The HEADERS frame that begins a call. The default flags do not end the stream, so a message may follow."""
    fields = HEADER_VALUES | {":path": path}
    block = CALL if fields == HEADER_VALUES else b"".join(header(*field) for field in fields.items())
    return frame(HEADERS, block, flags=flags, stream=stream)
