"""A server that answers every call at once and computes nothing: its throughput is the generator's own ceiling.

It implements the few parts of HTTP/2 and HTTP/1.1 that this needs, because a Python server is slower than the
generator: each complete request gets the same few bytes, and HTTP/2's headers are never decompressed.
Sources: RFC 9113 (frames), RFC 7541 (literal header fields), gRPC over HTTP/2.
"""

import multiprocessing
import selectors
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
FRAME_HEADER = 9  # Bytes: length (3), type, flags, stream (4).
PREFACE = 24  # Bytes that a client sends first.
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65535
# The client's window is extended once it has sent this many bytes.
WINDOW_REFILL = 1 << 20


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Build an HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


_HEADERS = b"\x88" + _literal(b"content-type", b"application/grpc")  # 0x88 is ":status: 200" in HPACK's table.
_MESSAGE = bytes(5)  # An empty message: not compressed, of length 0.
_TRAILERS = _literal(b"grpc-status", b"0")
# The three frames of an answer, each to be given its stream's number.
_ANSWER = (
    frame(HEADERS, END_HEADERS, 0, _HEADERS),
    frame(DATA, 0, 0, _MESSAGE),
    frame(HEADERS, END_HEADERS | END_STREAM, 0, _TRAILERS),
)
# Allow unlimited streams (setting 3), and the largest window for each (setting 4) and for the connection.
_SERVER_PREFACE = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 3, MAX_WINDOW, 4, MAX_WINDOW)) + frame(
    WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
)

_HEAD_END, _CONTENT_LENGTH = b"\r\n\r\n", b"\r\ncontent-length: "
_HTTP_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class NullConnection:
    """Turns one client's bytes of HTTP/2 into answers, without I/O."""

    greeting = _SERVER_PREFACE

    def __init__(self) -> None:
        self._incomplete = b""
        self._preface_left = PREFACE
        self._received = 0  # Bytes of data since the client's window was last extended.
        self._client_window = DEFAULT_WINDOW
        self._waiting: list[bytes] = []  # Frames that wait for the client's window.

    def receive(self, data: bytes) -> bytes:
        """The bytes to send back for these bytes."""
        buffer = self._incomplete + data
        position = min(self._preface_left, len(buffer))
        self._preface_left -= position
        out: list[bytes] = []
        while len(buffer) - position >= FRAME_HEADER:
            end = position + FRAME_HEADER + int.from_bytes(buffer[position : position + 3], "big")
            if end > len(buffer):
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            payload = position + FRAME_HEADER
            if kind == DATA:
                self._received += end - payload
                if flags & END_STREAM:
                    out += self._answer(buffer[position + 5 : payload])
            elif kind == WINDOW_UPDATE and not any(buffer[position + 5 : payload]):
                self._client_window += int.from_bytes(buffer[payload:end], "big")
                out += self._release()
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, buffer[payload:end]))
            position = end
        self._incomplete = buffer[position:]
        if self._received > WINDOW_REFILL:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        return b"".join(out)

    def _answer(self, stream: bytes) -> list[bytes]:
        frames = [part[: FRAME_HEADER - 4] + stream + part[FRAME_HEADER:] for part in _ANSWER]
        if self._client_window < len(_MESSAGE):
            self._waiting += frames
            return []
        self._client_window -= len(_MESSAGE)
        return frames

    def _release(self) -> list[bytes]:
        """The waiting answers that now fit into the client's window."""
        answers = min(len(self._waiting) // 3, self._client_window // len(_MESSAGE))
        self._client_window -= answers * len(_MESSAGE)
        released, self._waiting = self._waiting[: 3 * answers], self._waiting[3 * answers :]
        return released


class NullHttpConnection:
    """Turns one client's bytes of HTTP/1.1 into answers, without I/O. Requests with a body have a content-length."""

    greeting = b""

    def __init__(self) -> None:
        self._incomplete = b""

    def receive(self, data: bytes) -> bytes:
        """Return the answers to the requests that these bytes complete."""
        data = self._incomplete + data
        start = answers = 0
        while (head_end := data.find(_HEAD_END, start)) >= 0:
            head = data[start:head_end].lower()
            _, _, length = head.partition(_CONTENT_LENGTH)
            end = head_end + len(_HEAD_END) + int(length.partition(b"\r\n")[0] or 0)
            if end > len(data):
                break
            start, answers = end, answers + 1
        self._incomplete = data[start:]
        return _HTTP_ANSWER * answers


@contextmanager
def null_server(protocol: str = "gRPC") -> Iterator[str]:
    """Run a null server of a protocol, gRPC or HTTP, in another process while the context is open; yields its address.

    The address is HOST:PORT, for HTTP a URL.
    """
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end, protocol), name="null-server", daemon=True)
    process.start()
    child_end.close()
    try:
        yield f"{'http://' * (protocol == 'HTTP')}127.0.0.1:{parent_end.recv()}"
    finally:
        process.kill()
        process.join()
        parent_end.close()


def _serve(parent: Connection, protocol: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    parent.send(listener.getsockname()[1])
    serve_on(listener, NullHttpConnection if protocol == "HTTP" else NullConnection)


def serve_on(listener: socket.socket, kind: type[NullConnection] | type[NullHttpConnection] = NullConnection) -> None:
    """Answer every client, with this kind of connection, until the listener is closed."""
    clients: dict[socket.socket, NullConnection | NullHttpConnection] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while listener.fileno() >= 0:
            for key, _ in selector.select(timeout=0.5):
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[client] = kind()
                    client.sendall(clients[client].greeting)
                    selector.register(client, selectors.EVENT_READ, client)
                elif not _answer(key.data, clients[key.data]):
                    selector.unregister(key.data)
                    del clients[key.data]
                    key.data.close()
        for client in clients:
            client.close()


def _answer(client: socket.socket, connection: NullConnection | NullHttpConnection) -> bool:
    """Answer what the client sent; False once it has disconnected."""
    try:
        data = client.recv(1 << 18)
        if data:
            client.sendall(connection.receive(data))
    except OSError:
        return False
    return bool(data)
