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


def too_late(address: str, seconds: float | None, reason: str = "", *, stream: bool = False) -> ClientError:
    """Return the error of a call whose deadline has passed, or will pass before the next attempt.

    Args:
        address: the address that was called.
        seconds: the deadline; None if the server set the deadline.
        reason: how the last attempt failed; "" if the last attempt got no answer.
        stream: whether the call is a stream, which may have been answered in part.
    """
    what = f"the stream to {address} was not answered completely" if stream else f"no answer from {address}"
    limit = "in time" if seconds is None else f"within {seconds:g} s"
    message = f"{what} {limit}{f' ({reason})' if reason else ''}"
    return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def unreachable(address: str, reason: str) -> str:
    """Return the error message for an unreachable address, with the reason unless nothing listens there."""
    refused = "Connection refused" in reason or "Connect call failed" in reason  # asyncio writes the latter
    shown = address if refused else f"{address} ({reason})"
    return f"no server answers at {shown}; start a server with 'hangtag serve', or name another server with --server"


def broken(address: str, reason: str) -> str:
    """Return the error message for a connection that ended during a call."""
    return f"the connection to {address} broke before the answer came ({reason})"


def outcome_unknown(message: str) -> str:
    """Return the error message for a failed load or unload that the server may have executed nevertheless."""
    return (
        f"{message}; the server may or may not have executed the call, and the client does not repeat it: "
        "Client.models() or 'hangtag top --once' shows what the server serves"
    )


@contextmanager
def sending() -> Iterator[None]:
    """Context in which to build a request. An exception that an argument causes is turned into an InputError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise InputError(f"an argument of the call cannot be sent ({_named(error)})") from error


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Context in which to read an answer. Turns any exception that the answer causes into a ClientError.

    A server may answer anything, and the libraries that parse answers raise many kinds of exception. Each exception
    means that the answer does not follow the protocol.

    Args:
        source: the name of the sender, for the error message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = f"the answer of {source} does not follow the Open Inference Protocol ({_named(error)})"
        raise ClientError(grpc.StatusCode.INTERNAL, message) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_QUOTED]}"
