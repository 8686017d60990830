"""Ask a server's health service whether the server, or one of its models, takes requests."""

import time
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from hangtag.serving import address as server_address
from hangtag.serving.connection.connect import connect
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError, ClosedError, StatusLostError, sending
from hangtag.serving.connection.method import Method
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials

DEFAULT_TIMEOUT = 10.0
CHECK: Method[Any] = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)
WATCH: Method[Any] = Method("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckResponse)
SERVING: int = health_pb2.HealthCheckResponse.SERVING
UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthClient:
    """A client that can check readiness: the base of ``Client``, and all that `hangtag health` needs.

    The arguments and exceptions of construction are those of ``Client``.
    """

    def __init__(
        self,
        address: str = server_address.DEFAULT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
        options: ConnectionOptions = ConnectionOptions(),  # noqa: B008 - it cannot change
    ) -> None:
        self._address = address
        self._options = options
        self._credentials = credentials
        self._connection = connect(address, timeout, credentials, options)

    def close(self) -> None:
        """Take no more calls. Those in flight are cancelled over gRPC, and end over HTTP."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, serves; False while it loads or where the model is unknown.

        Args:
            model: a model's name; "" is the whole server.

        Raises:
            ClientError: no server answers, or it refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        return self._status(model) == SERVING

    def require_ready(self, model: str = "") -> None:
        """As ``is_ready``, but raise ClientError with the reason where it returns False."""
        status = self._status(model)
        if status != SERVING:
            raise not_ready(self._address, model, unknown=bool(model) and status == UNKNOWN and self.is_ready())

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, serves. The server need not have started yet, and may be
        replaced meanwhile.

        Args:
            seconds: how long to wait at most.
            model: a model's name; "" is the whole server.

        Raises:
            ClientError: it was not ready in time, or the server refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        request = check_request(model)
        status, deadline = None, time.monotonic() + seconds
        failure: ClientError | None = None
        for pause in self._options.polling_pauses():
            try:
                # gRPC's Watch reports each change at once, and HTTP polls. wait_for_ready outlasts a server that is not
                # up yet; one that stops ends the Watch.
                for response in self._connection.stream(WATCH, [request], seconds_until(deadline), wait_for_ready=True):
                    status, failure = response.status, None
                    if status == SERVING:
                        return
            except ClientError as error:
                if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    break
                if not outlasted(error):
                    raise
                failure = telling(failure, error)
            remaining = seconds_until(deadline)
            time.sleep(min(pause, remaining))
            if pause >= remaining:
                break
        raise not_ready_in_time(self._address, self._credentials, model, seconds, status, failure)

    def _status(self, model: str) -> int:
        try:
            return int(self._connection.call(CHECK, check_request(model)).status)
        except ClientError as error:
            return status_of(error)


@sending()
def check_request(model: str) -> health_pb2.HealthCheckRequest:
    """Return the request for the status of a model; "" is the whole server. Raises InputError for what is no name."""
    return health_pb2.HealthCheckRequest(service=model)


def status_of(error: ClientError) -> int:
    """Return the health service's status for a check that failed: UNKNOWN, or else the error is raised."""
    if error.code is grpc.StatusCode.NOT_FOUND:  # the model is unknown, or not loaded yet
        return UNKNOWN
    raise error


def seconds_until(deadline: float) -> float:
    """Return the seconds until a time of ``time.monotonic()``; 0 once it has passed."""
    return max(0.0, deadline - time.monotonic())


def outlasted(error: ClientError) -> bool:
    """Return whether a wait goes on after its Watch failed: the server stopped, or the connection to it broke.

    CANCELLED is gRPC's answer to calls that arrive at a server while it stops. Where the status is lost, the next Watch
    may tell more.
    """
    stopped = error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return isinstance(error, StatusLostError) or (stopped and not isinstance(error, ClosedError))


def not_ready(address: str, model: str, *, unknown: bool) -> ClientError:
    """Return the error that says that a server, or its model, does not serve.

    Args:
        address: the server's address.
        model: a model's name; "" is the whole server.
        unknown: whether the server is ready and has no such model.
    """
    if unknown:
        return ClientError(grpc.StatusCode.NOT_FOUND, f"the server at {address} serves no model {model!r}")
    return ClientError(
        grpc.StatusCode.UNAVAILABLE, f"{model or 'the server'} at {address} is not ready; its log says why"
    )


def telling(before: ClientError | None, last: ClientError) -> ClientError:
    """Return the failure to report of two, one after the other: the last one, unless it alone lacks a reason."""
    return before if before is not None and isinstance(last, StatusLostError) else last


def not_ready_in_time(
    address: str, credentials: Credentials, model: str, seconds: float, status: int | None, failure: ClientError | None
) -> ClientError:
    """Return the error that ends a wait. It may take seconds to find the cause: see ``diagnose``.

    Args:
        address: the server's address.
        credentials: what the calls used.
        model: a model's name; "" is the whole server.
        seconds: how long the wait was.
        status: what the health service said last; None if it said nothing.
        failure: how a Watch failed since the health service last said something; None if none did.
    """
    late = f"{model or 'the server'} at {address} was not ready within {seconds:g} s"
    if failure:
        message = f"{late}: {failure}"
    elif model and status == UNKNOWN:
        message = f"the server at {address} served no model {model!r} within {seconds:g} s"
    elif status is None and (explanation := diagnose(address, credentials)):
        message = explanation
    else:
        message = f"{late}; its log says why"
    return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)
