"""A call's deadline ends it at the client, travels to the server, and frees the server of it."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from hangtag.serving.client import AsyncClient, ClientError
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind, every_kind
from tests.kit.live import LiveServer


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    for number, _ in enumerate(KINDS):
        onnx_models.publish(folder, f"classifier{number}", onnx_models.classifier())
    with LiveServer(ServerConfig(models=folder, port=0, http_port=0)) as running:
        yield running


@every_kind
def test_a_late_call_ends_and_the_server_drops_it(kind: Kind, live: LiveServer) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    # A model for each kind: once it has held a call back, the server refuses others that cannot be in time.
    model = f"classifier{KINDS.index(kind)}"
    with live.gate(model) as gate, kind.open(kind.of(live.server), timeout=1) as client:
        with pytest.raises(ClientError) as caught:
            client.classify(pixels, model)
        gate.wait_until_cancelled()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(caught.value) == f"no answer from {kind.text(kind.of(live.server))} within 1 s"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)
def test_a_deadline_that_passes_before_there_is_a_connection_is_no_unreachable_server(
    kind: Kind, live: LiveServer
) -> None:
    with kind.open(kind.of(live.server), timeout=1e-6) as client, pytest.raises(ClientError) as caught:
        client.infer("gather", {"index": np.array([1])})
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("turns", range(12))
def test_a_stream_whose_deadline_passes_while_the_event_loop_is_busy_is_late(live: LiveServer, turns: int) -> None:
    async def outcome() -> ClientError | None:
        async with AsyncClient(live.server.address) as client:
            requests = [{"index": np.array([1])}] * 3
            await client.infer("gather", requests[0])
            stream = client.infer_stream("gather", requests, timeout=0.02)
            answers = asyncio.ensure_future(anext(stream))
            for _ in range(turns):  # of the event loop, so that it is busy at each step of the stream's beginning
                await asyncio.sleep(0)
            time.sleep(0.04)  # a program that holds its event loop up
            try:
                await answers
            except ClientError as error:
                return error
            finally:
                await stream.aclose()
        return None

    error = asyncio.run(outcome())
    assert error is None or error.code is grpc.StatusCode.DEADLINE_EXCEEDED, error
