"""Blocking sockets whose operations end at a deadline, however slowly the server receives and sends.

httpcore2 starts a new timeout for each connect, read and write. Here ``timeout`` is a time of ``time.monotonic()``, and
each operation gets the seconds that remain until that time. Clients for asyncio do not need this module, because a task
can be cancelled.
"""

import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import httpcore2

# httpcore2 applies the timeout to each send within a write. The system accepts this many bytes in one send.
_WRITE_BYTES = 16 << 10


class DeadlineNetwork(httpcore2.NetworkBackend):
    """Opens connections, and ends all open connections in ``shut_down``."""

    def __init__(self) -> None:
        self._sockets = httpcore2.SyncBackend()
        self._open: weakref.WeakSet[_Stream] = weakref.WeakSet()
        self._shut_down = False
        self._lock = threading.Lock()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect before a deadline. The deadline does not limit the look-up of the host's name."""
        addresses = _addresses(host, port)
        for left in range(len(addresses), 0, -1):
            remaining = _remaining(timeout)
            # An address that does not answer leaves the remaining addresses their share of the time.
            share = None if remaining is None else remaining / left
            try:
                stream = self._sockets.connect_tcp(addresses[-left], port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if left == 1:
                    raise
            else:
                return self.watched(stream)
        raise AssertionError("unreachable: the last address is connected or raises")

    def watched(self, stream: httpcore2.NetworkStream) -> "_Stream":
        """Return a connection whose operations end at their deadline, or when ``shut_down`` is called."""
        opened = _Stream(stream, self)
        with self._lock:
            self._open.add(opened)
            if self._shut_down:
                opened.shut_down()
        return opened

    def shut_down(self) -> None:
        """End the connections, so that threads that read or write get an error at once. Does not close the sockets: the
        number of a socket that is closed while a thread uses it may soon belong to another socket."""
        with self._lock:
            self._shut_down = True
            for stream in self._open:
                stream.shut_down()


class _Stream(httpcore2.NetworkStream):
    """A connection; ``timeout`` is the time at which an operation must be done."""

    def __init__(self, stream: httpcore2.NetworkStream, network: DeadlineNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], _remaining(timeout))

    def close(self) -> None:
        self._stream.close()

    def shut_down(self) -> None:
        with suppress(OSError):  # the socket is closed, or TLS has taken it over
            socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return self._network.watched(self._stream.start_tls(ssl_context, server_hostname, _remaining(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(deadline: float | None) -> float | None:
    """Return the seconds until a deadline; None if there is no deadline. Raises TimeoutException if it has passed."""
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore2.TimeoutException("the deadline has passed")
    return seconds


def _addresses(host: str, port: int) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))
