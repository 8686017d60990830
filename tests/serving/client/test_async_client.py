"""What only the client for asyncio has: tasks that are cancelled, many calls at once, and event loops."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from hangtag.serving.client import AsyncClient, Classification, Client, Credentials, Outputs
from hangtag.serving.credentials import CredentialsError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import Kind, asynchronous_kinds, every_kind
from tests.kit.live import LiveServer

PIXELS = np.random.default_rng(9).integers(0, 256, (28, 28), dtype=np.uint8)
TOKEN = "a-token-of-sixteen-and-more"


@pytest.fixture(scope="module")
def live(models: Path) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


@asynchronous_kinds
def test_many_calls_at_once_share_batches(kind: Kind, live: LiveServer) -> None:
    async def main() -> list[Outputs]:
        async with AsyncClient(kind.text(kind.of(live.server))) as client:
            calls = [client.infer("gather", {"index": np.array([number % 4])}) for number in range(32)]
            answers = asyncio.gather(*calls)
            await asyncio.to_thread(gate.wait_until_queued, 32)
            gate.open()
            return await answers

    with live.gate("gather") as gate:
        answers = asyncio.run(main())
    assert [answer["value"].tolist() for answer in answers] == [[10.0 * (number % 4)] for number in range(32)]
    assert max(gate.batch_sizes) > 1


@asynchronous_kinds
def test_a_cancelled_task_cancels_its_call_on_the_server(kind: Kind, live: LiveServer) -> None:
    async def main() -> None:
        async with AsyncClient(kind.text(kind.of(live.server))) as client:
            first, second = (
                asyncio.create_task(client.infer("gather", {"index": np.array([number])})) for number in (1, 2)
            )
            await asyncio.to_thread(gate.wait_until_queued, 2)
            for task in (first, second):
                task.cancel()
            outcomes = await asyncio.gather(first, second, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            await asyncio.to_thread(gate.wait_until_cancelled, 2)
            gate.open()
            assert (await client.infer("gather", {"index": np.array([3])}))["value"].tolist() == [30]

    with live.gate("gather") as gate:
        asyncio.run(main())


@asynchronous_kinds
def test_asynchronous_images_are_taken_as_they_come(kind: Kind, live: LiveServer) -> None:
    async def main() -> list[str]:
        answered = asyncio.Event()

        async def images() -> AsyncIterator[Any]:
            yield PIXELS
            await asyncio.wait_for(answered.wait(), 30)  # the loop is free to take the first answer meanwhile
            yield PIXELS.T

        models = []
        async with AsyncClient(kind.text(kind.of(live.server))) as client:
            async for outcome in client.classify_stream(images(), "classifier"):
                assert isinstance(outcome, Classification)
                models.append(outcome.model)
                answered.set()
        return models

    assert asyncio.run(main()) == ["classifier", "classifier"]


@asynchronous_kinds
def test_a_client_may_be_made_before_its_loop_runs_and_refuses_another_loop(kind: Kind, live: LiveServer) -> None:
    client = AsyncClient(kind.text(kind.of(live.server)))
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(client.is_ready("gather"))
        with pytest.raises(RuntimeError, match="belongs to another event loop; make one for each loop"):
            second.run(client.is_ready("gather"))
        first.run(client.close())


def test_a_missing_tls_file_is_reported_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"gone \(--tls-ca\) cannot be read"):
        AsyncClient("127.0.0.1:1", credentials=Credentials(tls_ca=tmp_path / "gone"))


@every_kind
def test_tls_with_a_clients_certificate_and_a_token(kind: Kind, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1")
        (tmp_path / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    (tmp_path / "token").write_text(TOKEN)
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    config = ServerConfig(
        models=tmp_path / "models",
        port=0,
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.key",
        http_port=0,
        tls_client_ca=tmp_path / "ca.pem",
        token_file=tmp_path / "token",
    )
    mine = Credentials(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key", tmp_path / "token")
    with Server(config) as server, kind.open(kind.of(server), credentials=mine) as client:
        assert client.infer("gather", {"index": np.array([2])})["value"].tolist() == [20]


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
