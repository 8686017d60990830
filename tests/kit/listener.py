"""Listeners that treat connections as no server should: they hang up, say nothing, trickle, or answer any bytes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.kit.http2 import DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, frame

Pause = Callable[[float], bool]
"""Waits for so many seconds; returns True, at once, when the test ends."""
Talk = Callable[[socket.socket, Pause], None]
"""What happens on a connection, which is closed when this returns."""


@contextmanager
def listener(talk: Talk) -> Iterator[str]:
    """HOST:PORT of a listener that talks so on each connection, in a thread for each."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the other end is closed
            talk(connection, ended.wait)

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=converse, args=(connection,)))
                threads[-1].start()

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in connections:
                with suppress(OSError):  # it is closed
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def hang_up(_connection: socket.socket, _pause: Pause) -> None:
    """Close the connection at once, as a load balancer does that has no server."""


def say_nothing(_connection: socket.socket, pause: Pause) -> None:
    """Keep the connection open until the test ends."""
    pause(threading.TIMEOUT_MAX)


def answering(answer: Callable[[], bytes]) -> Talk:
    """Answer the first bytes that come with these bytes, and close the connection."""

    def talk(connection: socket.socket, _pause: Pause) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer())

    return talk


def answering_over_http2(kind: int, payload: bytes, *, flags: int = 0, of_call: bool = True) -> Talk:
    """Answer each call over HTTP/2 with one frame, as proxies do that get no answer from a server.

    Args:
        kind: The frame's.
        payload: The frame's.
        flags: The frame's.
        of_call: Whether the frame is the call's; else it is the connection's, which is closed after it.
    """

    def talk(connection: socket.socket, _pause: Pause) -> None:
        with connection.makefile("rb") as received:
            received.read(len(PREFACE))
            connection.sendall(frame(SETTINGS))
            while len(head := received.read(9)) == 9:
                received.read(int.from_bytes(head[:3]))
                if head[3] in (DATA, HEADERS) and head[4] & END_STREAM:
                    stream = int.from_bytes(head[5:]) if of_call else 0
                    connection.sendall(frame(kind, payload, flags=flags, stream=stream))
                    if not of_call:
                        return

    return talk


@contextmanager
def refusing() -> Iterator[str]:
    """HOST:PORT that refuses connections: nothing listens there, and nothing else takes the port meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def unreachable(host: str, port: int = 0) -> Iterator[int]:
    """A port, 0 for any, that answers no attempt to connect, because its queue of connections is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind((host, port))
        listening.listen(0)
        with suppress(TimeoutError):
            for _ in range(8):
                stack.enter_context(socket.create_connection(listening.getsockname(), timeout=0.2))
        yield listening.getsockname()[1]
