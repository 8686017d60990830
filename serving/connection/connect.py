"""Open a connection to an address, over HTTP for a URL and over gRPC for any other address."""

import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from hangtag.extras import needs
from hangtag.serving import address as server_address
from hangtag.serving.connection.client_options import ConnectionOptions, OptionsError
from hangtag.serving.connection.grpc_connection import AioConnection, GrpcConnection
from hangtag.serving.credentials import Credentials

if TYPE_CHECKING:
    from hangtag.serving.connection.http.async_http_connection import AsyncHttpConnection
    from hangtag.serving.connection.http.http_connection import HttpConnection

Connection: TypeAlias = "GrpcConnection | HttpConnection"
"""A connection for threads. The docstrings of ``GrpcConnection`` describe the methods."""
AsyncConnection: TypeAlias = "AioConnection | AsyncHttpConnection"
"""A connection for asyncio."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def connect(address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> Connection:
    """Return the connection to a server: over HTTP if the address is a URL, and otherwise over gRPC.

    The first call opens the connection. The arguments and the exceptions are those of ``Client``.
    """
    if not _is_http(address, timeout):
        return GrpcConnection(address, timeout, credentials, options)
    with needs("http", "An http:// address"):
        from hangtag.serving.connection.http.http_connection import HttpConnection
    return HttpConnection(address, timeout, credentials, options)


def connect_async(
    address: str, timeout: float, credentials: Credentials, options: ConnectionOptions
) -> AsyncConnection:
    """Do the same as ``connect`` for asyncio, with the same exceptions."""
    if not _is_http(address, timeout):
        return AioConnection(address, timeout, credentials, options)
    with needs("http", "An http:// address"):
        from hangtag.serving.connection.http.async_http_connection import AsyncHttpConnection
    return AsyncHttpConnection(address, timeout, credentials, options)


def _is_http(address: str, timeout: float) -> bool:
    if not math.isfinite(timeout):  # neither gRPC nor HTTP can express an infinite deadline
        raise OptionsError(f"timeout must be a number of seconds, not {timeout}")
    return server_address.is_http(address)


def blocking(function: Callable[Arguments, Result]) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
    """Return a coroutine function that calls ``function``, which may block. The coroutine never suspends.

    With ``finished``, a thread can run code that was written for asyncio.
    """

    async def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return function(*arguments, **named)

    return call


def finished(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that awaits only ``blocking`` functions, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise RuntimeError("the coroutine suspended")
