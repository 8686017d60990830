"""By when a request is to be answered: its call's deadline, and Triton's parameter ``timeout``."""

import time

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.errors import InvalidRequestError

_TIMEOUT = "timeout"


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """When the caller gives up, on the monotonic clock, in seconds."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def own_deadline(request: pb.ModelInferRequest, deadline: float | None) -> float | None:
    """The earlier one of the call's deadline and the request's, which counts from now.

    A stream's deadline is that of all its requests; there the parameter is the only one of a request's own. Raises
    InvalidRequestError for a timeout that is none.
    """
    if _TIMEOUT not in request.parameters:
        return deadline
    microseconds = request.parameters[_TIMEOUT].int64_param
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {_TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)
