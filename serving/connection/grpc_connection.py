"""One gRPC channel for threads."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from hangtag.serving import address as server_address
from hangtag.serving.connection import errors
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.grpc_failures import explained
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials


class GrpcConnection:
    """One channel to one server. Thread-safe.

    Args:
        address: HOST:PORT of the server, or an address for one of gRPC's name resolvers (``dns:///HOST:PORT``).
        timeout: each call's deadline in seconds.
        credentials: for a server with TLS or tokens.
        options: the retries, the pings, and the largest answer to accept.

    Raises:
        AddressError: the address is a URL, or has no port.
        CredentialsError: a TLS file cannot be read. Calls raise this error if the token's file cannot be read.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        self.address = address
        self._timeout = timeout
        self._credentials = credentials
        self._channel = credentials.channel(address, options.channel_arguments())
        self._closed = False

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._closed = True
        self._channel.close()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. ``timeout`` in seconds replaces the connection's timeout.

        Raises ClientError and CredentialsError.
        """
        seconds = self._timeout if timeout is None else timeout
        call = self._unary(method)
        try:
            response, ended = call.with_call(request, timeout=seconds, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise self.explained(error, method, seconds) from error
        keep_costs(response, ended.trailing_metadata())
        return response

    def begin(self, method: Method[Response], request: Message, timeout: float | None = None) -> Any:
        """Begin one call, and return the call, which one of gRPC's threads ends. See ``call``."""
        seconds = self._timeout if timeout is None else timeout
        return self._unary(method).future(request, timeout=seconds, metadata=self._credentials.metadata())

    def stream(
        self, method: Method[Response], requests: Iterable[Message], timeout: float | None
    ) -> Iterator[Response]:
        """Yield a stream's responses.

        If iterating over ``requests`` raises an exception, it is re-raised after all earlier answers.

        Args:
            method: a method with a stream of responses.
            requests: the requests. gRPC starts a thread that reads the requests one by one.
            timeout: the deadline of the whole stream in seconds; None for no deadline.

        Raises:
            ClientError: the stream ended with a failure.
            CredentialsError: the token's file cannot be read.
        """
        call, responses = self.begin_stream(method, requests, timeout)
        try:
            yield from responses
        finally:
            call.cancel()  # the caller may have stopped reading

    def begin_stream(
        self, method: Method[Response], requests: Iterable[Message], timeout: float | None
    ) -> tuple[grpc.Call, Iterator[Response]]:
        """Begin a stream, and return its call and its responses. See ``stream``."""
        self._require_open()
        failures: list[Exception] = []

        def outgoing() -> Iterator[Message]:
            try:
                yield from requests
            except Exception as error:  # gRPC would log the exception and cancel the requests in flight
                failures.append(error)

        start: grpc.StreamStreamMultiCallable[Message, Response] = self._channel.stream_stream(
            method.path, method.serialise, method.response.FromString
        )
        call = start(outgoing(), timeout=timeout, metadata=self._credentials.metadata())

        def responses() -> Iterator[Response]:
            try:
                yield from call
            except grpc.RpcError as error:
                raise self.explained(error, method, timeout) from error
            if failures:
                raise failures[0]

        return call, responses()

    def explained(self, error: grpc.RpcError, method: Method[Any], timeout: float | None) -> errors.ClientError:
        """Return the error of a failed call. Finding the cause may take seconds; see ``diagnose``."""
        if self._closed:
            return errors.closed()
        return explained(error, self.address, timeout, method, self._credentials)

    def _unary(self, method: Method[Response]) -> "grpc.UnaryUnaryMultiCallable[Message, Response]":
        self._require_open()
        return self._channel.unary_unary(method.path, method.serialise, method.response.FromString)

    def _require_open(self) -> None:
        if self._closed:  # gRPC would raise a ValueError
            raise errors.closed()
