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
        with _as(httpcore2.ConnectError):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            *others, last = dict.fromkeys(str(address[0]) for *_, address in found)
            for other in others:
                with suppress(OSError):  # TimeoutError is a kind of OSError
                    async with asyncio.timeout(timeout and timeout / (len(others) + 1)):
                        return _Stream(*await asyncio.open_connection(other, port))
            return _Stream(*await asyncio.open_connection(last, port))


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection. The caller limits how long each operation takes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._unsent: list[bytes] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with suppress(OSError):  # the other side may have answered before it closed the connection
            if self._unsent:
                self._writer.write(b"".join(self._unsent))
                self._unsent.clear()
                await self._writer.drain()
        with _as(httpcore2.ReadError):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent.append(buffer)  # read() sends a request's head and body together

    async def aclose(self) -> None:
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        with _as(httpcore2.ConnectError):
            try:
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
            except BaseException:
                await self.aclose()
                raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # for an idle connection, this means that the server has closed it
            return self._reader.at_eof() or self._writer.is_closing()
        return self._writer.get_extra_info(info)


@contextmanager
def _as(failure: type[Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(str(error)) from error
