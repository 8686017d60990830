"""The exceptions that failed calls raise, over gRPC and over HTTP alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hangtag.errors import UserError

_QUOTED = 200  # an error quotes at most this many characters of another exception's message


class ClientError(UserError):
    """A call to the server failed. The message comes from the server, or says what to check.

    Attributes:
        code: gRPC's status code, such as ``grpc.StatusCode.NOT_FOUND`` for an unknown model.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ClosedError(ClientError):
    """The client was closed, so its further calls fail."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, "this client is closed; make another client")


class InputError(ClientError, TypeError, ValueError):
    """An argument of a call cannot be sent. Programs may also catch this error as a TypeError or a ValueError."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)


@contextmanager
def sending() -> Iterator[None]:
    """Context in which to build a request. Turns any exception that an argument causes into an InputError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise InputError(f"an argument of the call cannot be sent ({_named(error)})") from error


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Return a context manager for code that reads an answer of ``source``. It turns any exception that the answer
    causes into a ClientError, because a server may answer anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = f"the answer of {source} does not follow the Open Inference Protocol ({_named(error)})"
        raise ClientError(grpc.StatusCode.INTERNAL, message) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_QUOTED]}"
