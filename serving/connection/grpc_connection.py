"""One gRPC channel for threads."""

from collections.abc import Iterable, Iterator

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
        self._require_open()
        seconds = self._timeout if timeout is None else timeout
        call: grpc.UnaryUnaryMultiCallable[Message, Response] = self._channel.unary_unary(
            method.path, method.serialise, method.response.FromString
        )
        try:
            response, ended = call.with_call(request, timeout=seconds, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise explained(error, self.address, seconds, method, self._credentials) from error
        keep_costs(response, ended.trailing_metadata())
        return response

    def stream(
        self,
        method: Method[Response],
        requests: Iterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> Iterator[Response]:
        """Yield a stream's responses.

        If iterating over ``requests`` raises an exception, it is re-raised after all earlier answers.

        Args:
            method: a method with a stream of responses.
            requests: the requests. gRPC starts a thread that reads the requests one by one.
            timeout: the deadline of the whole stream in seconds; None for no deadline.
            wait_for_ready: wait for a server that is not up yet, instead of failing.

        Raises:
            ClientError: the stream ended with a failure.
            CredentialsError: the token's file cannot be read.
        """
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
        metadata = self._credentials.metadata()
        call = start(outgoing(), timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        try:
            yield from call
        except grpc.RpcError as error:
            raise explained(error, self.address, timeout, method, self._credentials) from error
        finally:
            call.cancel()  # the caller may have stopped reading
        if failures:
            raise failures[0]

    def _require_open(self) -> None:
        if self._closed:  # gRPC would raise a ValueError
            raise errors.closed()
