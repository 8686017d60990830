"""The options of a connection: their ranges, and their effect on a real one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2
from hangtag.serving.client import Client, ClientError, ConnectionOptions
from hangtag.serving.connection.options import OptionsError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind, every_kind
from tests.kit.link import link


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish(models, "text", onnx_models.text())
    with Server(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("retries", 5, "retries must be from 0 to 4, not 5"),
        ("retries", -1, "retries must be from 0 to 4, not -1"),
        ("initial_backoff", 0, "initial_backoff must be greater than 0, not 0"),
        ("max_backoff", float("inf"), "max_backoff must be greater than 0"),
        ("keepalive_seconds", float("nan"), "keepalive_seconds must be greater than 0, not nan"),
        ("max_message_mib", -1, "max_message_mib must be greater than 0, not -1"),
    ],
)
def test_a_value_out_of_its_range_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        ConnectionOptions(**{name: value})


def echo(client: Client, size: int) -> int:
    answer = client.infer("text", {"text": np.array(["x" * size], np.object_)})
    return len(answer["shouted"][0])


@every_kind
def test_an_answer_above_the_limit_is_refused(kind: Kind, server: Server) -> None:
    with kind.open(kind.of(server), options=ConnectionOptions(max_message_mib=1)) as client:
        assert echo(client, 1000) == 1001
        with pytest.raises(ClientError) as caught:
            echo(client, 1 << 20)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_pings_notice_a_server_that_vanished(kind: Kind, server: Server) -> None:
    pings = ConnectionOptions(retries=0, keepalive_seconds=0.2, keepalive_timeout_seconds=0.2)
    with link(kind.of(server)) as to, kind.open(to.address, timeout=60, options=pings) as client:
        assert echo(client, 1) == 2
        to.freeze()
        with pytest.raises(ClientError) as caught:  # after half a second, and not after a minute
            echo(client, 1)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_a_call_that_a_server_cancels_is_tried_again(kind: Kind) -> None:
    """gRPC's core cancels calls that arrive at a server while it stops."""
    answers = iter([None, inference_pb2.RepositoryIndexResponse(models=[{"name": "cnn"}])])

    def index(_request: object, context: grpc.ServicerContext) -> inference_pb2.RepositoryIndexResponse:
        answer = next(answers)
        if answer is None:
            context.abort(grpc.StatusCode.CANCELLED, "")
        assert answer
        return answer

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(
        index,
        inference_pb2.RepositoryIndexRequest.FromString,
        inference_pb2.RepositoryIndexResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"RepositoryIndex": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with kind.open(f"127.0.0.1:{port}") as client:
            assert client.models() == ["cnn"]
    finally:
        server.stop(None)
