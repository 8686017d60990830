"""One channel to one server: calls with a deadline and a token, failures in words that help, and the server's health.

It knows nothing of tensors and pictures: a container's health check loads this much, every few seconds.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.serving.credentials import Credentials

T = TypeVar("T")
DEFAULT_TIMEOUT = 10.0
server_option = click.option(
    "--server", default="127.0.0.1:8001", show_default=True, show_envvar=True, help="HOST:PORT of the server."
)
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]  # the server says how large an answer may be


class ClientError(Exception):
    """A call that failed. ``code`` is gRPC's status, the message the server's own or what to check."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """What every client of the server builds on. Thread-safe. Every method raises ClientError."""

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        """timeout: each call's deadline in seconds; it travels to the server, which does not compute what is late.

        credentials: for a server with TLS or tokens. Raises CredentialsError when its files cannot be read, as do calls
        once the token's file is gone.
        """
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._channel = credentials.channel(address, _CHANNEL_OPTIONS)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def is_ready(self, model: str = "") -> bool:
        """Whether the server, or one model, serves. False while it loads; ClientError where nobody answers."""
        try:
            response = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=model))
        except ClientError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:  # no such model, or not yet
                return False
            raise
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, serves. Raises ClientError when that takes over ``seconds``."""
        request = health_pb2.HealthCheckRequest(service=model)
        try:
            # Watch tells every change at once: no polling. wait_for_ready outlasts a server that has not started yet.
            metadata = self._credentials.metadata()
            for response in self._health.Watch(request, timeout=seconds, wait_for_ready=True, metadata=metadata):
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._explained(error) from error
        raise ClientError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"{model or 'the server'} at {self._address} was not ready within {seconds:g} s; its log says why",
        )

    def close(self) -> None:
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

    def _converse(self, method: Callable[..., Any], requests: Iterable[object], timeout: float | None) -> Iterator[Any]:
        """A stream's responses. What ``requests`` raises is raised here, after the answers to those before it."""
        failures: list[Exception] = []

        def outgoing() -> Iterator[object]:
            try:
                yield from requests
            except Exception as error:  # else gRPC would log it, and cancel what is on its way
                failures.append(error)

        call = method(outgoing(), timeout=timeout, metadata=self._credentials.metadata())
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                late = f"the stream to {self._address} was not answered to its end within {timeout:g} s"
                raise ClientError(error.code(), late) from error
            raise self._explained(error) from error
        finally:
            call.cancel()  # where nobody wants the rest
        if failures:
            raise failures[0]

    def _explained(self, error: grpc.RpcError) -> ClientError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "handshake failed" in details:
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
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"no answer from {self._address} within {self._timeout:g} s"
        return ClientError(code, details or code.name)


def _reason(details: str) -> str:
    """OpenSSL's word for what went wrong, out of gRPC's sentence."""
    found = re.search(r"OPENSSL_internal:(\w+)", details)
    return f"({found[1].replace('_', ' ').lower()})" if found else f"({details})"
