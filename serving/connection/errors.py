"""The exception of every failed call, whatever carried it."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hangtag.errors import UserError

UNKNOWN_OUTCOME = (
    "whether the server has done it is unknown, and the call is not repeated: models() of a client, or "
    "'hangtag top --once', shows what it serves"
)
"""Ends the message of a load or unload whose connection broke."""
_QUOTED = 200  # characters of another exception's message


class ClientError(UserError):
    """A call to the server failed. The message is the server's own, or says what to check.

    Attributes:
        code: gRPC's status code, such as ``grpc.StatusCode.NOT_FOUND`` for an unknown model.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ClosedError(ClientError):
    """The client was closed, so that no further call of it can succeed."""


class StatusLostError(ClientError):
    """A stream ended, and nothing says why."""


class InputError(ClientError, TypeError, ValueError):
    """An argument of a call cannot be sent. It is a TypeError and a ValueError too, which programs may catch."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)


def closed() -> ClosedError:
    """Return the error of a call on a client that was closed."""
    return ClosedError(grpc.StatusCode.CANCELLED, "this client is closed; make another one")


def too_late(address: str, seconds: float) -> ClientError:
    """Return the error of a call whose deadline passed."""
    return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer from {address} within {seconds:g} s")


def stream_too_late(address: str, seconds: float | None) -> ClientError:
    """Return the error of a stream whose deadline passed: its own, or one that the server sets."""
    limit = "in time" if seconds is None else f"within {seconds:g} s"
    message = f"the stream to {address} was not answered to its end {limit}"
    return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def status_lost(address: str) -> StatusLostError:
    """Return the error of a stream that ended while its requests were sent, and whose status gRPC has lost."""
    message = (
        f"the stream to {address} ended before its requests were sent, and gRPC lost the reason: the server stops or "
        "refuses the stream, a proxy answered in its place, or the connection broke"
    )
    return StatusLostError(grpc.StatusCode.UNKNOWN, message)


@contextmanager
def sending() -> Iterator[None]:
    """Build a request in this context. Raises InputError for whatever exception an argument leads to."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise InputError(f"an argument of the call cannot be sent ({_named(error)})") from error


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Read an answer in this context. Raises ClientError for whatever exception the answer leads to.

    A server may answer anything, and the libraries that read it raise many kinds of exception: each one means that the
    answer is not of the protocol.

    Args:
        source: what answered.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = f"the answer of {source} is not of the Open Inference Protocol ({_named(error)})"
        raise ClientError(grpc.StatusCode.INTERNAL, message) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_QUOTED]}"
