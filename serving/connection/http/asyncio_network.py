"""Connections for httpcore2 that use asyncio's streams.

httpcore2's own connections use anyio, which halves the calls per second of 16 threads that share one event loop.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2


class Network(httpcore2.AsyncNetworkBackend):
    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **_more: Any
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first of a host's addresses that answers. Each address has an equal share of ``timeout``."""
        loop = asyncio.get_running_loop()
        with _as(httpcore2.ConnectError):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            *others, last = dict.fromkeys(str(address[0]) for *_, address in found)
            for other in others:
                with suppress(OSError):  # TimeoutError is a kind of OSError
                    async with asyncio.timeout(timeout and timeout / (len(others) + 1)):
                        return (await loop.create_connection(_Stream, other, port))[1]
            return (await loop.create_connection(_Stream, last, port))[1]


class _Stream(asyncio.StreamReaderProtocol, httpcore2.AsyncNetworkStream):
    """A connection. The caller limits how long each operation takes.

    There is no ``asyncio.StreamWriter``, because it would close the connection when it is freed. If a process closes a
    connection that it inherited in a fork, its parent's event loop no longer notices data on it.
    """

    def __init__(self) -> None:
        self._received = asyncio.StreamReader()
        self._unsent: list[bytes] = []
        super().__init__(self._received)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._socket: asyncio.Transport = transport

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # close the connection; with TLS, True would have no effect

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            self._socket.write(b"".join(self._unsent))
            self._unsent.clear()
        with _as(httpcore2.ReadError):
            return await self._received.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent.append(buffer)  # sent by read(), so that a request's head and body leave together

    async def aclose(self) -> None:
        self._socket.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        start = asyncio.get_running_loop().start_tls
        with _as(httpcore2.ConnectError):
            secured = await start(self._socket, self, ssl_context, server_hostname=server_hostname)
        if secured is None:
            raise httpcore2.ConnectError("the server closed the connection")
        self._socket = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # for an idle connection, this means that the server has closed it
            return self._received.at_eof() or self._socket.is_closing()
        return self._socket.get_extra_info(info)


@contextmanager
def _as(failure: type[Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(str(error)) from error
