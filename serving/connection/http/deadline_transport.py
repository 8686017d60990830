"""Requests of threads that end at a point in time, however slowly the other side takes and sends its bytes.

httpx2's own transport gives the whole timeout to each connect, read and write of a socket. Here the timeouts of a
request are points in time, and streams below httpcore2, which httpx2 is made of, turn them into what remains.
"""

import ipaddress
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import httpx2

# A stream of httpcore2's gives the timeout to each send of a write. The system takes so few bytes in one.
_WRITE_BYTES = 16 << 10
_PORTS = {"http": 80, "https": 443}
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
    """Connections to one server, or to the proxy that the environment names for it.

    Args:
        address: the server's URL.
        verify: what https:// is verified with; True is the system's authorities.
        limits: how many connections are open, and for how long.
    """

    def __init__(self, address: str, verify: ssl.SSLContext | bool, limits: httpx2.Limits) -> None:
        url = httpx2.URL(address)
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(verify) if url.scheme == "https" else None,
            proxy=_environment_proxy(url),
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


def _environment_proxy(url: httpx2.URL) -> httpcore2.Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for a URL, unless NO_PROXY has its host."""
    proxies = urllib.request.getproxies()
    name = proxies.get(url.scheme) or proxies.get("all")
    if not name or any(_exempts(entry.strip(), url) for entry in proxies.get("no", "").split(",")):
        return None
    proxy = httpx2.Proxy(name if "://" in name else f"http://{name}")
    return httpcore2.Proxy(str(proxy.url), proxy.raw_auth)


def _exempts(entry: str, url: httpx2.URL) -> bool:
    """Whether an entry of NO_PROXY has a URL's host.

    It may be of any form that httpx2 knows, by which AsyncClient goes. The standard library does not know
    *.example.com, [::1], 10.0.0.0/8 and https://example.com.
    """
    scheme, _, name = entry.rpartition("://")
    if scheme not in ("", "all", url.scheme):
        return False
    if name == "*":
        return True
    name = name.removeprefix("*").removeprefix(".").replace("[", "").replace("]", "").lower()
    with suppress(ValueError):  # one of them is no address
        if ipaddress.ip_address(url.host) in ipaddress.ip_network(name, strict=False):
            return True
    ends = f".{url.host}", f".{url.host}:{url.port or _PORTS[url.scheme]}"
    return name != "" and any(end.endswith(f".{name}") for end in ends)


@contextmanager
def _failures_of_httpx2() -> Iterator[None]:
    """Raise httpx2's exceptions for httpcore2's, which have the same names."""
    try:
        yield
    except _FAILURES as error:
        kind: type[httpx2.TransportError] = getattr(httpx2, type(error).__name__)
        raise kind(str(error)) from error
