"""A TCP link to a server. A test can cut, silence or corrupt the link."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Link:
    """Forwards connections to a server, except the first few, which are closed without an answer."""

    def __init__(self, server: str, refused: int = 0) -> None:
        """Accept connections, count them in ``connections``, and count the server's bytes in ``answered_bytes``.

        Args:
            server: HOST:PORT to which connections are forwarded.
            refused: The number of connections to close immediately. All later connections are forwarded.
        """
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._refused = refused
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._mute: set[socket.socket] = set()
        self.alter: Callable[[bytes], bytes] = bytes
        """Changes the bytes that the server sends. If this function raises OSError, the link cuts the connection."""
        self.connections = 0
        self.answered_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Close the existing connections. Later connections are forwarded."""
        cut, self._open = self._open, []
        for end in cut:
            with suppress(OSError):  # the connection is already closed
                end.shutdown(socket.SHUT_RDWR)

    def lose_answers(self) -> None:
        """Stop forwarding the server's bytes on the existing connections. Later connections work in both directions."""
        self._mute = set(self._open[::2])

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # the link is closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.connections <= self._refused:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._server)
                except OSError:  # the server is down
                    client.close()
                    continue
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if sink not in self._mute:
                    answered = sink in self._open[::2]
                    sink.sendall(self.alter(data) if answered else data)
                    if answered:
                        self.answered_bytes += len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def link(server: str, refused: int = 0) -> Iterator[Link]:
    opened = Link(server, refused)
    try:
        yield opened
    finally:
        opened.close()
