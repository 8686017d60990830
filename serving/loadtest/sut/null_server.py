"""A server that answers every call at once and computes nothing: what the generator reaches on it is its own ceiling.

It speaks just enough HTTP/2 by hand, because a gRPC server in Python is slower than the generator that it would
measure: each request that ends is answered by the same few bytes, and nothing is decompressed for that.
Source: RFC 9113 (frames), RFC 7541 (literal header fields), gRPC over HTTP/2.
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
HEADER = 9  # Bytes: length (3), kind, flags, stream (4).
PREFACE = 24  # Bytes that a client begins with.
MAX_WINDOW = 2**31 - 1
# Room that a client is given again once it has used so much (bytes).
REFILL = 1 << 20
DEFAULT_WINDOW = 65535


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


_HEADERS = b"\x88" + _literal(b"content-type", b"application/grpc")  # 0x88 is ":status: 200" in HPACK's table.
_MESSAGE = bytes(5)  # An empty message: not compressed, of length 0.
_TRAILERS = _literal(b"grpc-status", b"0")
# The three frames of an answer, each without its stream's number.
_FIRST = frame(HEADERS, END_HEADERS, 0, _HEADERS)
_SECOND = frame(DATA, 0, 0, _MESSAGE)
_THIRD = frame(HEADERS, END_HEADERS | END_STREAM, 0, _TRAILERS)
# No limit to streams (setting 3), and all the room there can be for each (setting 4) and for the connection.
_HELLO = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 3, MAX_WINDOW, 4, MAX_WINDOW)) + frame(
    WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
)


class NullConnection:
    """One client's bytes in, answers out."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = PREFACE
        self._used = 0
        self._room = DEFAULT_WINDOW  # How much the client still takes.
        self._held: list[bytes] = []

    def receive(self, data: bytes) -> bytes:
        """What to send back for these bytes."""
        buffer = self._rest + data
        position = min(self._skip, len(buffer))
        self._skip -= position
        out: list[bytes] = []
        while len(buffer) - position >= HEADER:
            end = position + HEADER + int.from_bytes(buffer[position : position + 3], "big")
            if end > len(buffer):
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            payload = position + HEADER
            if kind == DATA:
                self._used += end - payload
                if flags & END_STREAM:
                    out += self._answer(buffer[position + 5 : payload])
            elif kind == WINDOW_UPDATE and not any(buffer[position + 5 : payload]):
                self._room += int.from_bytes(buffer[payload:end], "big")
                out += self._release()
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, buffer[payload:end]))
            position = end
        self._rest = buffer[position:]
        if self._used > REFILL:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._used.to_bytes(4, "big")))
            self._used = 0
        return b"".join(out)

    def _answer(self, stream: bytes) -> list[bytes]:
        numbered = [part[: HEADER - 4] + stream + part[HEADER:] for part in (_FIRST, _SECOND, _THIRD)]
        if self._room < len(_MESSAGE):
            self._held += numbered
            return []
        self._room -= len(_MESSAGE)
        return numbered

    def _release(self) -> list[bytes]:
        """What was held back for want of room, as far as there is room now."""
        answers = min(len(self._held) // 3, self._room // len(_MESSAGE))
        self._room -= answers * len(_MESSAGE)
        released, self._held = self._held[: 3 * answers], self._held[3 * answers :]
        return released


@contextmanager
def null_server() -> Iterator[str]:
    """The address of a null server in a process of its own, while the context is open."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="null-server", daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(told: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    told.send(listener.getsockname()[1])
    serve_on(listener)


def serve_on(listener: socket.socket) -> None:
    """Answer whoever connects, until the listener is closed."""
    clients: dict[socket.socket, NullConnection] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while listener.fileno() >= 0:
            for key, _ in selector.select(timeout=0.5):
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.sendall(_HELLO)
                    clients[client] = NullConnection()
                    selector.register(client, selectors.EVENT_READ, client)
                elif not _answer(key.data, clients[key.data]):
                    selector.unregister(key.data)
                    del clients[key.data]
                    key.data.close()
        for client in clients:
            client.close()


def _answer(client: socket.socket, connection: NullConnection) -> bool:
    """Whether the client is still there."""
    try:
        data = client.recv(1 << 18)
        if data:
            client.sendall(connection.receive(data))
    except OSError:
        return False
    return bool(data)
