"""A server that answers every call at once and computes nothing: its throughput is the generator's own ceiling.

It implements the few parts of HTTP/2 that this needs, because a Python gRPC server is slower than the generator: each
complete request gets the same few bytes, and headers are never decompressed.
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


class NullConnection:
    """Turns one client's bytes into answers, without I/O."""

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


@contextmanager
def null_server() -> Iterator[str]:
    """Run a null server in another process while the context is open; yields its address."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end,), name="null-server", daemon=True)
    process.start()
    child_end.close()
    try:
        yield f"127.0.0.1:{parent_end.recv()}"
    finally:
        process.kill()
        process.join()
        parent_end.close()


def _serve(parent: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    parent.send(listener.getsockname()[1])
    serve_on(listener)


def serve_on(listener: socket.socket) -> None:
    """Answer every client until the listener is closed."""
    clients: dict[socket.socket, NullConnection] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while listener.fileno() >= 0:
            for key, _ in selector.select(timeout=0.5):
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.sendall(_SERVER_PREFACE)
                    clients[client] = NullConnection()
                    selector.register(client, selectors.EVENT_READ, client)
                elif not _answer(key.data, clients[key.data]):
                    selector.unregister(key.data)
                    del clients[key.data]
                    key.data.close()
        for client in clients:
            client.close()


def _answer(client: socket.socket, connection: NullConnection) -> bool:
    """Answer what the client sent; False once it has disconnected."""
    try:
        data = client.recv(1 << 18)
        if data:
            client.sendall(connection.receive(data))
    except OSError:
        return False
    return bool(data)
