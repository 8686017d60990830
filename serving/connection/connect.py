"""Open the kind of connection that an address asks for: gRPC, or HTTP for a URL."""

import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from typing import Protocol

from hangtag.extras import needs
from hangtag.serving import address as server_address
from hangtag.serving.connection.aio_connection import AioConnection
from hangtag.serving.connection.grpc_connection import GrpcConnection
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.options import ConnectionOptions, OptionsError
from hangtag.serving.credentials import Credentials

_FEATURE = "An http:// address"


class Connection(Protocol):
    """A connection for threads. ``GrpcConnection`` describes the methods."""

    def close(self) -> None: ...

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response: ...

    def stream(
        self,
        method: Method[Response],
        requests: Iterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> Iterator[Response]: ...


class AsyncConnection(Protocol):
    """A connection for asyncio."""

    async def close(self) -> None: ...

    async def call(self, method: Method[Response], request: Message) -> Response: ...

    def stream(
        self,
        method: Method[Response],
        requests: AsyncIterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> AsyncGenerator[Response, None]: ...


def connect(address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> Connection:
    """Return a connection to a server. Nothing is sent yet.

    Raises:
        AddressError: the address cannot be one, or HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names no proxy.
        CredentialsError: a TLS file cannot be read.
        MissingExtraError: the address is a URL, and the extra ``http`` is not installed.
        OptionsError: the timeout is infinite or no number.
    """
    _require_finite(timeout)
    if not server_address.is_http(address):
        return GrpcConnection(address, timeout, credentials, options)
    with needs("http", _FEATURE):
        from hangtag.serving.connection.http.http_connection import HttpConnection
    return HttpConnection(address, timeout, credentials, options)


def connect_async(
    address: str, timeout: float, credentials: Credentials, options: ConnectionOptions
) -> AsyncConnection:
    """Return a connection for asyncio. Nothing is sent yet. It raises what ``connect`` does."""
    _require_finite(timeout)
    if not server_address.is_http(address):
        return AioConnection(address, timeout, credentials, options)
    with needs("http", _FEATURE):
        from hangtag.serving.connection.http.async_http_connection import AsyncHttpConnection
    return AsyncHttpConnection(address, timeout, credentials, options)


def _require_finite(timeout: float) -> None:
    if not math.isfinite(timeout):  # neither protocol has a deadline for it
        raise OptionsError(f"timeout must be a number of seconds, not {timeout}")
