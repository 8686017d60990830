"""The exception of every failed call, whatever carried it."""

import grpc

from hangtag.errors import UserError

UNKNOWN_OUTCOME = (
    "whether the server has done it is unknown, and the call is not repeated: models() of a client, or "
    "'hangtag top --once', shows what it serves"
)
"""Ends the message of a load or unload whose connection broke."""


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


def unreadable(source: str, error: Exception) -> ClientError:
    """Return the error of an answer that is not of the protocol.

    Args:
        source: who answered.
        error: what reading it raised.
    """
    message = f"the answer of {source} is not of the Open Inference Protocol ({type(error).__name__}: {error})"
    return ClientError(grpc.StatusCode.INTERNAL, message)
