"""Single calls to a server before and beside the load, over gRPC or HTTP. Failures carry gRPC's code in both."""

from typing import Protocol

import grpc

from hangtag.extras import needs
from hangtag.serving import address as server_address
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels.grpc_channels import CHANNEL_OPTIONS


class Caller(Protocol):
    """A connection to one server."""

    def call(self, method: Method[Response], request: Message, timeout: float) -> Response:
        """Make one call with a deadline in seconds. Raises ClientError and CredentialsError."""

    def close(self) -> None:
        """Close the connection."""


class GrpcCaller:
    """Calls over gRPC, whose failures have gRPC's own details."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Create the channel. Raises CredentialsError."""
        self._metadata = credentials.metadata()
        self._channel = credentials.channel(address, CHANNEL_OPTIONS)

    def call(self, method: Method[Response], request: Message, timeout: float) -> Response:
        """See Caller."""
        call: grpc.UnaryUnaryMultiCallable[Message, Response] = self._channel.unary_unary(
            method.path, method.serialise, method.response.FromString
        )
        try:
            response: Response = call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise ClientError(error.code(), error.details() or "") from error
        return response

    def close(self) -> None:
        """See Caller."""
        self._channel.close()


def open_caller(address: str, credentials: Credentials) -> Caller:
    """Return a connection to a server; nothing is sent yet.

    Raises:
        CredentialsError: a file cannot be read.
        MissingExtraError: the address is a URL, and the extra ``loadtest`` is not installed.
    """
    if not server_address.is_http(address):
        return GrpcCaller(address, credentials)
    with needs("loadtest", "A load test over HTTP"):
        from hangtag.serving.connection.http.http_connection import HttpConnection
    credentials.metadata()  # a token that cannot be read is reported before the first call
    # No retries: a load test reports what the server answers.
    return HttpConnection(address, 0.0, credentials, ConnectionOptions(retries=0))
