"""Call one server over one channel: every call has a deadline and a token, and a failure's message says what to check.

This module imports neither numpy nor the protocol's messages, because a container's health check loads it every few
seconds.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from hangtag.errors import UserError
from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials

T = TypeVar("T")
DEFAULT_TIMEOUT = 10.0
# gRPC's words for a port that answers in another protocol, to a call without TLS and to one with it.
_NOT_GRPC = ("Failed parsing HTTP/2", "handshake failed")
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]  # the server limits the size of an answer


class ClientError(UserError):
    """A call to the server failed. The message is the server's own, or says what to check.

    Attributes:
        code: gRPC's status code, such as ``grpc.StatusCode.NOT_FOUND`` for an unknown model.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """One channel to one server, closed by ``close`` or at the end of a ``with`` block. Thread-safe.

    Args:
        address: HOST:PORT of the server, or an address for one of gRPC's name resolvers (``dns:///HOST:PORT``).
        timeout: each call's deadline in seconds. The deadline travels to the server, which drops a late request
            before it computes it.
        credentials: for a server with TLS or tokens.

    Raises:
        AddressError: the address is a URL, or has no port.
        CredentialsError: a TLS file cannot be read. Calls raise it for the token's file.
    """

    def __init__(
        self,
        address: str = server_address.DEFAULT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        server_address.require(address)
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._channel = credentials.channel(address, _CHANNEL_OPTIONS)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., T], request: object) -> T:
        try:
            return method(request, timeout=self._timeout, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _stream(self, method: Callable[..., Any], requests: Iterable[object], timeout: float | None) -> Iterator[Any]:
        """Yield a stream's responses. An exception of ``requests`` is raised after the answers to those before it."""
        failures: list[Exception] = []

        def outgoing() -> Iterator[object]:
            try:
                yield from requests
            except Exception as error:  # gRPC would log it and cancel the requests in flight
                failures.append(error)

        call = method(outgoing(), timeout=timeout, metadata=self._credentials.metadata())
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                message = f"the stream to {self._address} was not answered to its end within {timeout:g} s"
                raise ClientError(error.code(), message) from error
            raise self._explained(error) from error
        finally:
            call.cancel()  # the caller may have stopped reading
        if failures:
            raise failures[0]

    def _explained(self, error: grpc.RpcError) -> ClientError:
        code, details = error.code(), error.details() or ""
        speaks_no_grpc = code is grpc.StatusCode.UNAVAILABLE and any(words in details for words in _NOT_GRPC)
        if speaks_no_grpc and (explanation := server_address.http_explanation(self._address)):
            details = explanation
        elif code is grpc.StatusCode.UNAVAILABLE and "handshake failed" in details:
            details = (
                f"no TLS with {self._address}; is --tls-ca its authority, and does it serve TLS? {_reason(details)}"
            )
        elif code is grpc.StatusCode.UNAVAILABLE and "Socket closed" in details:
            details = (
                f"the server at {self._address} closed the connection; "
                "does it want TLS (--tls-ca), or a client certificate (--tls-cert, --tls-key)?"
            )
        elif code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
            details = (
                f"no server answers at {self._address}; start one with 'hangtag serve', or name another with --server"
            )
        elif code is grpc.StatusCode.UNAVAILABLE and "resol" in details:  # "errors resolving", "DNS resolution failed"
            details = f"the host of {self._address} is unknown; name the server with --server, as HOST:PORT"
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"no answer from {self._address} within {self._timeout:g} s"
        return ClientError(code, details or code.name)


def _reason(details: str) -> str:
    """OpenSSL's reason for a failed handshake, taken from gRPC's sentence."""
    reason = re.search(r"OPENSSL_internal:(\w+)", details)
    return f"({reason[1].replace('_', ' ').lower()})" if reason else f"({details})"
