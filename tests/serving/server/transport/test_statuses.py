"""The status of each error of the server over every transport."""

from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server import errors
from tests.kit.over_http import EVERY_TRANSPORT, HTTP, live_server
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.slow

STATUSES: dict[type[errors.ServerError], tuple[grpc.StatusCode, int]] = {
    errors.InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.NotFoundError: (grpc.StatusCode.NOT_FOUND, 404),
    errors.NothingToUnloadError: (grpc.StatusCode.NOT_FOUND, 404),
    errors.MessageTooLargeError: (grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
    errors.QueueFullError: (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    errors.DeadlineError: (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    errors.CancelledError: (grpc.StatusCode.CANCELLED, 499),
    errors.UnavailableError: (grpc.StatusCode.UNAVAILABLE, 503),
    errors.ControlError: (grpc.StatusCode.FAILED_PRECONDITION, 400),
    errors.UnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, 401),
    errors.InferenceError: (grpc.StatusCode.INTERNAL, 500),
    errors.InvalidValuesError: (grpc.StatusCode.INVALID_ARGUMENT, 400),
}


class FailingControl:
    """Control of the models for clients' calls: each load fails as the model's name says."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def load(self, name: str) -> None:
        if name == "bug":
            raise LookupError("a secret of ours")
        base: Any = getattr(errors, name)
        raise type("Special", (base,), {})("a special case")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


@EVERY_TRANSPORT
def test_every_error_has_a_status_and_so_has_a_subclass_of_it_and_a_bug_has_a_reference(
    few: Path, transport: str
) -> None:
    of_requests = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind is not errors.ServerError and not issubclass(kind, errors.StartError)
    }
    assert of_requests == STATUSES.keys()
    with live_server(transport, few, wrap_control=FailingControl) as live, structlog.testing.capture_logs() as log:

        def end(name: str) -> Any:
            message = pb.RepositoryModelLoadRequest(model_name=name)
            with pytest.raises(grpc.RpcError) as raised:
                live.inference.RepositoryModelLoad(message, timeout=TIMEOUT)
            return raised.value

        for kind, (code, status) in STATUSES.items():
            error = end(kind.__name__)
            assert (error.status if transport == HTTP else error.code()) == (status if transport == HTTP else code)
            assert error.details() == "a special case"
        bug = end("bug")
    assert (bug.code(), "secret" in bug.details()) == (grpc.StatusCode.INTERNAL, False)
    (line,) = [line for line in log if line["log_level"] == "error"]
    assert line["reference"] in bug.details()
