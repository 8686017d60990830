"""Clients over HTTP at the wrong port, and at servers that are not hangtag's."""

import json

import grpc
import numpy as np
import pytest

from hangtag.serving.client import Client, ClientError, ConnectionOptions
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector
from tests.kit.kinds import KINDS, Kind
from tests.kit.web_server import Answer, web_server

NEVER = ConnectionOptions(retries=0)
PIXELS = np.zeros((28, 28), np.uint8)
_HEAD = json.dumps(
    {
        "model_name": "gather",
        "outputs": [{"name": "value", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}],
    }
).encode()
TOO_SHORT: Answer = (200, {"inference-header-content-length": str(len(_HEAD))}, _HEAD + b"four")
pytestmark = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)


def failure(client: Client) -> ClientError:
    with pytest.raises(ClientError) as caught:
        client.infer("gather", {"index": np.array([1])})
    return caught.value


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_a_grpc_port_is_explained(kind: Kind, transport: str, server: Server) -> None:
    with (
        Server(ServerConfig(models=server.config.models, port=0, http_port=-1, transport=transport)) as other,
        kind.open(other.address, options=NEVER) as client,
    ):
        error = failure(client)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert f"if it is a gRPC port, write {other.address} without a scheme" in str(error)


def test_the_port_for_metrics_is_explained(kind: Kind, server: Server) -> None:
    metrics = MetricsServer(ServerConfig(metrics_port=0), StateCollector(server.state), lambda: True)
    try:
        with kind.open(f"127.0.0.1:{metrics.port}") as client:
            error = failure(client)
    finally:
        metrics.close()
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert "has no /v2/models/gather/infer; is this the address of hangtag's HTTP port" in str(error)


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ((200, {}, b"hello"), grpc.StatusCode.INTERNAL, "is not of the Open Inference Protocol (JSONDecodeError"),
        ((200, {}, b"[]"), grpc.StatusCode.INTERNAL, "is not of the Open Inference Protocol (TypeError"),
        ((200, {}, b"{}"), grpc.StatusCode.INTERNAL, "is not of the Open Inference Protocol (KeyError"),
        (TOO_SHORT, grpc.StatusCode.INTERNAL, "Inference Protocol (ValueError: FP32 [2] needs 8 bytes, got 4)"),
        ((302, {"location": "https://x.example/"}, b""), grpc.StatusCode.UNKNOWN, "redirects to https://x.example/;"),
        ((404, {}, b"<html>"), grpc.StatusCode.UNIMPLEMENTED, "has no /v2/models/gather/infer"),
        ((500, {}, b"<html>Oops"), grpc.StatusCode.INTERNAL, "answered 500 <html>Oops"),
        ((500, {}, b'{"error": 5}'), grpc.StatusCode.INTERNAL, 'answered 500 {"error": 5}'),
        ((502, {}, b""), grpc.StatusCode.UNAVAILABLE, "answered 502"),
        ((418, {}, b'{"error": "tea"}'), grpc.StatusCode.UNKNOWN, "tea"),
    ],
)
def test_an_answer_outside_the_protocol_is_explained(
    kind: Kind, answer: Answer, code: grpc.StatusCode, message: str
) -> None:
    with web_server(lambda _: answer) as address, kind.open(address, options=NEVER) as client:
        error = failure(client)
    assert error.code is code
    assert message in str(error)


def test_an_answer_that_breaks_off_is_no_answer(kind: Kind) -> None:
    def cut(_path: str) -> Answer:
        return 200, {"content-length": "1000", "connection": "close"}, b"{"

    with web_server(cut) as address, kind.open(address, options=NEVER) as client:
        error = failure(client)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "broke before the answer came" in str(error)


def test_outputs_in_json_are_read_too(kind: Kind) -> None:
    outputs = [
        {"name": "value", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2]},
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]},
    ]
    body = json.dumps({"model_name": "gather", "outputs": outputs}).encode()
    with web_server(lambda _: (200, {}, body)) as address, kind.open(address) as client:
        answer = client.infer("gather", {"index": np.array([1, 2])})
    assert answer["value"].tolist() == [[1.5], [2.0]]
    assert answer["text"].tolist() == [b"a", "ü".encode()]


def test_a_path_stands_before_every_request(kind: Kind) -> None:
    paths = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, {}, b"[]"

    with web_server(answer) as address, kind.open(f"{address}/tenant/a/") as client:
        assert client.models() == []
    assert paths == ["/tenant/a/v2/repository/index"]


def test_a_busy_server_is_tried_again(kind: Kind) -> None:
    answers: list[Answer] = [(503, {}, b'{"error": "loading"}'), (503, {}, b""), (200, {}, b'[{"name": "gather"}]')]
    quick = ConnectionOptions(initial_backoff=0.01)
    with web_server(lambda _: answers.pop(0)) as address, kind.open(address, options=quick) as client:
        assert client.models() == ["gather"]


@pytest.mark.parametrize(("status", "body", "ready"), [(200, b"", True), (400, b"", False), (503, b"", False)])
def test_readiness_as_triton_answers_it(kind: Kind, status: int, body: bytes, ready: bool) -> None:
    with web_server(lambda _: (status, {}, body)) as address, kind.open(address) as client:
        assert client.is_ready() is ready
        assert client.is_ready("gather") is ready


def test_a_health_check_that_is_no_answer_fails(kind: Kind) -> None:
    with web_server(lambda _: (404, {}, b"")) as address, kind.open(address) as client:
        with pytest.raises(ClientError, match="has no /v2/health/ready"):
            client.is_ready()
        assert client.is_ready("gather") is False
