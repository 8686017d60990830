"""Ask a server's health service whether the server, or one of its models, is ready for requests."""

import time
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from hangtag.protos import methods
from hangtag.serving import address as server_address
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import connect
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError, ClosedError, sending
from hangtag.serving.connection.method import Method
from hangtag.serving.credentials import Credentials

DEFAULT_TIMEOUT = 10.0
CHECK: Method[Any] = Method(methods.CHECK, health_pb2.HealthCheckResponse)
SERVING: int = health_pb2.HealthCheckResponse.SERVING
UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthClient:
    """A client that only checks readiness, for `hangtag health`. ``Client`` extends this class.

    The constructor's arguments and exceptions are those of ``Client``.
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
        """Refuse further calls, and cancel the calls in flight."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, is ready. A model that is loading or unknown is not ready.

        Args:
            model: a model's name, or "" for the whole server.

        Raises:
            ClientError: no server answers, or the server refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        return self._status(model) == SERVING

    def require_ready(self, model: str = "") -> None:
        """Raise ClientError with the reason if the server, or one model, is not ready. See ``is_ready``."""
        status = self._status(model)
        if status != SERVING:
            raise not_ready(self._address, model, unknown=bool(model) and status == UNKNOWN and self.is_ready())

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, is ready. The server may start or be replaced during the wait.

        Args:
            seconds: the longest wait.
            model: a model's name, or "" for the whole server.

        Raises:
            ClientError: the server or model was not ready in time, or the server refuses the call.
            CredentialsError: the token's file cannot be read.
        """
        wait = Wait(self._address, self._credentials, self._options, model, seconds)
        while remaining := wait.remaining():
            try:
                if wait.ends_with(self._status(model, remaining)):
                    return
            except ClientError as error:
                wait.goes_on_after(error)
            time.sleep(wait.pause())
        raise wait.error()

    def _status(self, model: str, timeout: float | None = None) -> int:
        try:
            return int(self._connection.call(CHECK, check_request(model), timeout).status)
        except ClientError as error:
            return status_of(error)


@sending()
def check_request(model: str) -> health_pb2.HealthCheckRequest:
    """Return the request for the status of a model, or of the server if ``model`` is "". Raises InputError if ``model``
    is not a text."""
    return health_pb2.HealthCheckRequest(service=model)


def status_of(error: ClientError) -> int:
    """Return the status UNKNOWN if a check failed because the model is unknown; otherwise, raise ``error``."""
    if error.code is grpc.StatusCode.NOT_FOUND:  # the model is unknown, or not loaded yet
        return UNKNOWN
    raise error


def not_ready(address: str, model: str, *, unknown: bool) -> ClientError:
    """Return the error for a server or a model that is not ready.

    Args:
        address: the server's address.
        model: a model's name, or "" for the whole server.
        unknown: whether the server is ready but has no such model.
    """
    if unknown:
        return ClientError(grpc.StatusCode.NOT_FOUND, f"the server at {address} serves no model {model!r}")
    return ClientError(
        grpc.StatusCode.UNAVAILABLE, f"{model or 'the server'} at {address} is not ready; the server's log says why"
    )


class Wait:
    """A wait for readiness: the time that is left, and the latest status or failure.

    Args:
        address: the server's address.
        credentials: the credentials of the calls.
        options: the options that set the pauses between checks.
        model: a model's name, or "" for the whole server.
        seconds: the longest wait.
    """

    def __init__(
        self, address: str, credentials: Credentials, options: ConnectionOptions, model: str, seconds: float
    ) -> None:
        self._address, self._credentials = address, credentials
        self._model, self._seconds = model, seconds
        self._pauses = options.polling_pauses()
        self._deadline = time.monotonic() + seconds
        self._status: int | None = None
        self._failure: ClientError | None = None

    def remaining(self) -> float:
        """Return how many seconds are left."""
        return max(0.0, self._deadline - time.monotonic())

    def pause(self) -> float:
        """Return how many seconds to pause before the next check."""
        return min(next(self._pauses), self.remaining())

    def ends_with(self, status: int) -> bool:
        """Record a status, and return whether the status ends the wait."""
        self._status, self._failure = status, None
        return status == SERVING

    def goes_on_after(self, error: ClientError) -> None:
        """Record the failure of a check, and raise the failure unless the server is unreachable, starts or stops.

        gRPC answers CANCELLED to calls that arrive while a server stops.
        """
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._deadline = time.monotonic()
        elif isinstance(error, ClosedError) or error.code not in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        ):
            raise error
        else:
            self._failure = error

    def error(self) -> ClientError:
        """Return the error that ends the wait. Finding the cause may take seconds; see ``diagnose``."""
        late = f"{self._model or 'the server'} at {self._address} was not ready within {self._seconds:g} s"
        if self._status is None and (explanation := diagnose(self._address, self._credentials)):
            message = explanation
        elif self._failure:
            message = f"{late}: {self._failure}"
        elif self._status is None:
            message = f"{late}: the server did not answer"
        elif self._model and self._status == UNKNOWN:
            message = f"the server at {self._address} served no model {self._model!r} within {self._seconds:g} s"
        else:
            message = f"{late}; the server's log says why"
        return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)
