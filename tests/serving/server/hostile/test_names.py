"""No name, id or path that a client sends can forge a log line or a header. Repeated loads do not fill the log."""

import re
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.telemetry.log import INFO_BURST, PERIOD
from tests.kit.live import failure, number, request
from tests.kit.rest import Rest
from tests.kit.target import INFER, Attacked
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
LONGEST_ERROR = 3000
SERVICE = "/inference.GRPCInferenceService/"
ESCAPES = "\x1b]0;owned\x07\nevent=ready level=info \x1b[2J\u202e"
NAMED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "a model's name": (INFER, lambda name: pb.ModelInferRequest(model_name=name)),
    "a version": (INFER, lambda name: pb.ModelInferRequest(model_name="tiled", model_version=name)),
    "a name in ModelMetadata": (f"{SERVICE}ModelMetadata", lambda name: pb.ModelMetadataRequest(name=name)),
    "a name in ModelStatistics": (f"{SERVICE}ModelStatistics", lambda name: pb.ModelStatisticsRequest(name=name)),
    "a service in health": ("/grpc.health.v1.Health/Check", lambda name: health_pb2.HealthCheckRequest(service=name)),
    "a model to load": (f"{SERVICE}RepositoryModelLoad", lambda name: pb.RepositoryModelLoadRequest(model_name=name)),
}
NAMES = {"long": "m" * MEGABYTE, "wide": "\U0001f600" * (MEGABYTE // 4), "escapes": ESCAPES, "folders": "../" * 1000}


def refused(target: Attacked, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    return failure(lambda: target.call(method, message))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("where", NAMED)
def test_a_name_is_refused_with_a_short_message(target: Attacked, where: str, name: str) -> None:
    method, message = NAMED[where]
    code, details = refused(target, method, message(name).SerializeToString())
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert len(details) < LONGEST_ERROR


def test_an_id_of_a_megabyte_comes_back_with_the_answer(target: Attacked) -> None:
    sent = request("tiled", x=number(1))
    sent.id = "i" * MEGABYTE
    answer = target.send(INFER, sent.SerializeToString())
    assert answer is not None
    assert pb.ModelInferResponse.FromString(answer).id == sent.id


@pytest.mark.parametrize("over_http", [False, True], ids=["grpc", "http"])
def test_what_a_failed_call_says_of_itself_stays_one_printable_line_of_the_log(
    target: Attacked, over_http: bool
) -> None:
    """The answer would be larger than the address space, so ONNX Runtime fails and the server logs the call."""
    sent = request("filled", shape=np.array([1 << 23, 1 << 23], np.int64))
    before = len(target.failures())
    sent.id = ESCAPES * 10_000
    if over_http:
        with Rest(target.http_address) as rest:
            code = rest.infer(sent).code
    else:
        code, _ = refused(target, INFER, sent.SerializeToString())
    assert code is grpc.StatusCode.INTERNAL
    until(lambda: len(target.failures()) > before)
    line = target.failures()[before]
    assert line[:-1].isprintable()
    assert len(line) < 5000
    assert len(re.findall(r"(?<!\S)event=", re.sub(r'"(\\.|[^"\\])*"', '""', line))) == 1


def test_a_path_makes_no_header_of_its_answer(target: Attacked) -> None:
    with Rest(target.http_address) as rest:
        forged = rest.get("/v2/models/x%0d%0aset-cookie:%20a=b%1b%5b2J")
        assert forged.status == 404
        assert "set-cookie" not in forged.headers
        x = {"name": "n" * MEGABYTE, "datatype": "FP32", "shape": [1, 1], "data": [1]}
        wrong = rest.infer_json("tiled", x)
        assert (wrong.status, len(wrong.error) < LONGEST_ERROR) == (400, True)


PAIRS = 60


def test_loading_and_unloading_without_end_does_not_fill_the_log(target: Attacked) -> None:
    def lines() -> int:
        return sum(line.startswith("model=filled ") for line in target.log())

    before, began = lines(), time.monotonic()
    for _ in range(PAIRS):
        target.inference.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="filled"), timeout=TIMEOUT)
        target.inference.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="filled"), timeout=TIMEOUT)
    periods = 2 + (time.monotonic() - began) // PERIOD
    assert INFO_BURST <= lines() - before <= 3 * INFO_BURST * periods  # three events: model loaded, unloaded, retired
