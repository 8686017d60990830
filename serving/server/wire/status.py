"""Translates domain errors into statuses of gRPC and HTTP, and a query's cost into metadata of the response. The
metrics count failures under gRPC's codes, over HTTP too."""

import uuid
from typing import NamedTuple

import structlog
from grpc import StatusCode

from hangtag.serving.server import errors
from hangtag.serving.server.telemetry.model_statistics import Timings

log = structlog.get_logger()
_MAX_LOGGED_LENGTH = 128  # characters, because the log must not grow with the callers' messages
QUEUE_NS, COMPUTE_NS, BATCH_SIZE = "hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"
MODEL, STAGE = "hangtag-model", "hangtag-stage"
"""For a route, the members that answered, and the number (from 1) of the stage that answered each sample. If one stage
answered all samples, its number is listed only once."""
STAGES = "hangtag-stages"
"""For a route, the stages' costs, separated by commas: MEMBER;samples=N;queue-ns=N;compute-ns=N;batch-size=N."""
UNSURE = "hangtag-unsure"
"""For a cascade, the number of samples that kept an unsure answer because the next member was overloaded."""
_MAX_LISTED = 1024
"""If there are more samples than this, their stages are not listed, because clients limit the size of metadata."""


class Status(NamedTuple):
    grpc: StatusCode
    http: int


STATUS: dict[type, Status] = {
    errors.UnsupportedEncodingError: Status(StatusCode.INVALID_ARGUMENT, 415),
    errors.InvalidRequestError: Status(StatusCode.INVALID_ARGUMENT, 400),
    errors.NotFoundError: Status(StatusCode.NOT_FOUND, 404),
    errors.QueueFullError: Status(StatusCode.RESOURCE_EXHAUSTED, 429),
    errors.MessageTooLargeError: Status(StatusCode.RESOURCE_EXHAUSTED, 413),  # like gRPC's core
    errors.DeadlineError: Status(StatusCode.DEADLINE_EXCEEDED, 504),
    errors.CancelledError: Status(StatusCode.CANCELLED, 499),  # nginx' status for a caller that has left
    errors.UnavailableError: Status(StatusCode.UNAVAILABLE, 503),
    errors.ControlError: Status(StatusCode.FAILED_PRECONDITION, 400),  # like Triton
    errors.ForeignOriginError: Status(StatusCode.UNAUTHENTICATED, 403),
    errors.UnauthenticatedError: Status(StatusCode.UNAUTHENTICATED, 401),
    errors.InvalidValuesError: Status(StatusCode.INVALID_ARGUMENT, 400),
    errors.InferenceError: Status(StatusCode.INTERNAL, 500),
}
"""The status of each error, and of its subclasses that have no status of their own."""


def status(error: Exception) -> Status:
    """Return the status for an exception. An exception that is not in the table is a bug."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), STATUS[errors.InferenceError])


def call_status(error: Exception, rpc: str, request: object = None) -> tuple[StatusCode, str]:
    """Return the status code and the message with which a call ends.

    The caller gets a domain error's own message, shortened so that it fits into a header of 8 KiB, because the message
    may quote a long request. For a bug, the caller gets a reference, with which the traceback can be found in the log.
    Only errors that are not the caller's fault are logged, with ``rpc`` and with the model and the id of ``request``.
    Headers and metadata, in which callers send their tokens, are never logged.
    """
    code = status(error).grpc
    method = rpc.rpartition("/")[2] if rpc.startswith("/") else rpc  # over HTTP, rpc is a method and a path
    fields = {"rpc": method, "model": getattr(request, "model_name", ""), "request_id": getattr(request, "id", "")}
    fields = {name: str(value)[:_MAX_LOGGED_LENGTH] for name, value in fields.items()}
    if isinstance(error, errors.ServerError):
        message = str(error)
        if code is StatusCode.INTERNAL:
            log.warning("request failed", reason=message, **fields)
        limit = 2500 if message.isascii() else 600  # a character takes up to 12 bytes in a header
        return code, message if len(message) <= limit else f"{message[:limit]} ..."
    reference = uuid.uuid4().hex[:12]
    log.error("unexpected error", reference=reference, exc_info=error, **fields)
    return code, f"an error inside the server; the server's log has the details under {reference}"


def cost_metadata(timings: Timings) -> tuple[tuple[str, str], ...]:
    compute_ns, batch_size = str(timings.compute_ns), str(timings.batch_size)
    cost = ((QUEUE_NS, str(timings.queue_ns)), (COMPUTE_NS, compute_ns), (BATCH_SIZE, batch_size))
    return (*cost, *route_metadata(timings))


def route_metadata(timings: Timings) -> list[tuple[str, str]]:
    """Return the metadata that names which members of a route answered a query. Empty if there is no route."""
    if not timings.stages:
        return []
    answered: dict[int, int] = {}
    for number, stage in enumerate(timings.stages, start=1):
        answered.update(dict.fromkeys(stage.rows, number))
    numbers = list(answered.values())
    members = [timings.stages[number - 1].member for number in sorted(set(numbers))]
    if len(members) == 1:
        del numbers[1:]
    costs = [
        f"{stage.member};samples={len(stage.rows)};queue-ns={stage.queue_ns};compute-ns={stage.compute_ns};"
        f"batch-size={stage.batch_size}"
        for stage in timings.stages
    ]
    metadata = [
        (MODEL, ",".join(members)),
        (STAGE, ",".join(map(str, numbers)) if len(numbers) <= _MAX_LISTED else "several"),
        (STAGES, ",".join(costs)),
    ]
    return [*metadata, (UNSURE, str(timings.low_confidence))] if timings.low_confidence else metadata
