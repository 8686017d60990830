"""Streams of AsyncClient whose status gRPC loses, because they end while their requests are sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from hangtag.serving.client import AsyncClient, ClientError, ConnectionOptions, Credentials
from hangtag.serving.connection.aio_connection import AioConnection
from hangtag.serving.health import WATCH, outlasted
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models

STREAMS = 100
TOKEN = "a-token-of-sixteen-and-more"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a token."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    token = tmp_path_factory.mktemp("secrets") / "token"
    token.write_text(TOKEN)
    with Server(ServerConfig(models=folder, port=0, token_file=token)) as running:
        yield running


def test_a_stream_that_the_server_refuses_is_no_broken_connection(server: Server, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(TOKEN[::-1])

    async def refusal(client: AsyncClient) -> ClientError:
        with pytest.raises(ClientError) as caught:
            async for _ in client.infer_stream("gather", [{"index": np.array([1])}] * 20):
                pass
        return caught.value

    async def refusals() -> list[ClientError]:
        async with AsyncClient(server.address, credentials=Credentials(token_file=wrong)) as client:
            return await asyncio.gather(*(refusal(client) for _ in range(STREAMS)))

    codes = {refusal.code for refusal in asyncio.run(refusals())}
    assert codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNKNOWN}


def test_a_stream_that_grpc_itself_cancels_is_a_failure_and_no_cancelled_task(server: Server) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield health_pb2.HealthCheckRequest()
        raise SystemExit  # it ends gRPC's task as a failure does to send the end of the requests

    async def main() -> ClientError:
        connection = AioConnection(server.address, 10, Credentials(), ConnectionOptions())
        with pytest.raises(ClientError, match="gRPC lost the reason") as caught:
            async for _ in connection.stream(WATCH, requests(), 10):
                pass
        await connection.close()
        return caught.value

    error = asyncio.run(main())
    assert error.code is grpc.StatusCode.UNKNOWN
    assert outlasted(error)


def test_a_cancellation_among_the_requests_is_the_callers(server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"index": np.array([1])}
        raise asyncio.CancelledError

    async def main() -> None:
        async with AsyncClient(server.address, credentials=Credentials(token_file=server.config.token_file)) as client:
            with pytest.raises(asyncio.CancelledError):
                async for _ in client.infer_stream("gather", requests()):
                    pass

    asyncio.run(main())
