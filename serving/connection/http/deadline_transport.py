"""Requests of threads that end at a point in time, however slowly the other side takes and sends its bytes.

httpx2's own transport gives the whole timeout to each connect, read and write of a socket. Here the timeouts of a
request are points in time, and streams below httpcore2, which httpx2 is made of, turn them into what remains.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

from hangtag.serving.connection.proxy import Proxy

# A stream of httpcore2's gives the timeout to each send of a write. The system takes so few bytes in one.
_WRITE_BYTES = 16 << 10
_FAILURES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)


def until(deadline: float | None) -> dict[str, Any]:
    """Return the extensions of a request that ends at a time of ``time.monotonic()``; None is no deadline.

    Looking a host's name up is not cut short by it.
    """
    return {"timeout": dict.fromkeys(("connect", "read", "write"), deadline)}


class DeadlineTransport(httpx2.BaseTransport):
    """Connections to one server, or to its proxy.

    Args:
        verify: what https:// is verified with; False for http://.
        limits: how many connections are open, and for how long.
        proxy: what stands between; None for direct connections.
    """

    def __init__(self, verify: ssl.SSLContext | bool, limits: httpx2.Limits, proxy: Proxy | None) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(verify),
            proxy=_of_httpcore2(proxy),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Network(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        assert isinstance(request.stream, httpx2.SyncByteStream)
        sent = httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _failures_of_httpx2():
            answer = self._pool.handle_request(sent)
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _failures_of_httpx2():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore2.NetworkBackend):
    """Opens streams; ``timeout`` is the time by which one has to be open."""

    def __init__(self) -> None:
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = _addresses(host, port)
        for left in range(len(addresses), 0, -1):
            remaining = _remaining(timeout)
            # An address that does not answer leaves the others their part of the time.
            share = None if remaining is None else remaining / left
            try:
                stream = self._sockets.connect_tcp(addresses[-left], port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if left == 1:
                    raise
            else:
                return _Stream(stream)
        raise AssertionError("unreachable: the last address is connected or raises")


class _Stream(httpcore2.NetworkStream):
    """A connection; ``timeout`` is the time by which an operation has to be done."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], _remaining(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _remaining(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(deadline: float | None) -> float | None:
    """Seconds until a deadline; None without one. Raises TimeoutException once it has passed."""
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore2.TimeoutException("the deadline has passed")
    return seconds


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _of_httpcore2(proxy: Proxy | None) -> httpcore2.Proxy | None:
    if proxy is None:
        return None
    url = httpx2.Proxy(proxy.url)  # it takes the user and the password out
    return httpcore2.Proxy(str(url.url), url.raw_auth)


@contextmanager
def _failures_of_httpx2() -> Iterator[None]:
    """Raise httpx2's exceptions for httpcore2's, which have the same names."""
    try:
        yield
    except _FAILURES as error:
        kind: type[httpx2.TransportError] = getattr(httpx2, type(error).__name__)
        raise kind(str(error)) from error
