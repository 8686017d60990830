"""The tables from errors to the status of a call, gRPC's and HTTP's, and what is logged of a failure."""

from collections.abc import Collection

import pytest
import structlog.testing

from hangtag.serving.server import errors
from hangtag.serving.server.transport import status
from hangtag.serving.server.transport.http import status as http_status
from tests.kit.live import index, request

TABLES = pytest.mark.parametrize("table", [status.STATUS, http_status.STATUS], ids=["grpc", "http"])


@TABLES
def test_every_error_that_a_request_can_meet_has_a_status(table: Collection[type[errors.ServerError]]) -> None:
    for error in vars(errors).values():
        if isinstance(error, type) and not issubclass(error, errors.StartError) and error is not errors.ServerError:
            assert error in table


@TABLES
def test_a_subclass_stands_before_its_base_in_the_table(table: Collection[type[errors.ServerError]]) -> None:
    kinds = list(table)
    for place, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[place + 1 :])


def test_the_log_cuts_the_names_that_callers_send() -> None:
    sent = request("m" * 100_000, index=index(1))
    sent.id = "r" * 100_000
    with structlog.testing.capture_logs() as log:
        status.call_status(RuntimeError("a bug"), "/package.Service/Method", sent)
    assert log[0]["model"] == "m" * 128
    assert log[0]["request_id"] == "r" * 128
    assert log[0]["rpc"] == "Method"
    with structlog.testing.capture_logs() as log:
        status.call_status(RuntimeError("a bug"), "GET /v2/models/" + "m" * 100_000)
    assert log[0]["rpc"] == "GET /v2/models/" + "m" * 113
