"""Cancelling a call does not end other calls, even if the client makes no retries."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag import AsyncClient, ConnectionOptions
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.kinds import Kind, grpc_kinds
from tests.kit.link import link
from tests.kit.live import LiveServer
from tests.kit.waiting import TIMEOUT

NEVER = ConnectionOptions(retries=0)
INDEX = {"index": np.array([1])}
IMAGE = np.zeros((28, 28), np.uint8)
TASKS, ROUNDS = 16, 60
GRPC = Kind(asynchronous=True, http=False)


async def infer(client: AsyncClient) -> Any:
    return await client.infer("gather", INDEX)


async def infer_over_a_stream(client: AsyncClient) -> Any:
    async with aclosing(client.infer_stream("gather", [INDEX])) as answers:
        return [answer async for answer in answers]


async def classify(client: AsyncClient) -> Any:
    return await client.classify(IMAGE, "classifier")


async def compare(client: AsyncClient) -> Any:
    return await client.compare(IMAGE, ["classifier", "gather"])


async def turn(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(scope="module", params=["native", "grpc"])
def live(models: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, instances=1, transport=request.param)) as running:
        yield running


async def cancel_again_and_again(
    client: AsyncClient, ask: Callable[[AsyncClient], Awaitable[Any]], rounds: int, turns: int
) -> None:
    """Make ``rounds`` calls, and cancel each after ``turns`` iterations of the event loop."""
    for _ in range(rounds):
        call = asyncio.ensure_future(ask(client))
        await turn(turns)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call


@pytest.mark.parametrize(
    ("live", "kind"),
    [("native", GRPC), ("grpc", GRPC), ("grpc", Kind(asynchronous=True, http=True))],
    indirect=["live"],
    scope="module",
    ids=str,
)
@pytest.mark.parametrize("ask", [infer, infer_over_a_stream, classify, compare])
def test_calls_that_are_cancelled_end_no_others_and_are_not_computed(
    kind: Kind, ask: Callable[[AsyncClient], Awaitable[Any]], live: LiveServer
) -> None:
    """Over HTTP, fewer calls suffice, because each cancelled call ends its own connection."""
    rounds = ROUNDS // 4 if kind.http else ROUNDS

    async def run() -> list[Any]:
        async with AsyncClient(kind.text(kind.of(live.server)), timeout=TIMEOUT, options=NEVER) as client:
            patient = [asyncio.ensure_future(infer(client))]
            await asyncio.to_thread(gate.wait_until_computing)
            patient += [asyncio.ensure_future(infer(client)) for _ in range(3)]
            await asyncio.to_thread(live.wait_until_queued, "gather", 3)
            turns = [1 + 2 * (task % 8) for task in range(TASKS)]
            await asyncio.gather(*(cancel_again_and_again(client, ask, rounds, each) for each in turns))
            await client.models()
            await asyncio.to_thread(live.wait_until_queued, "gather", 3)
            gate.open()
            return await asyncio.gather(*patient)

    before = live.statistics("gather").inference_count
    with live.gates.closed("gather") as gate:
        answers = asyncio.run(run())
    assert [answer["value"].tolist() for answer in answers] == [[10]] * 4
    assert live.statistics("gather").inference_count - before == 4


@grpc_kinds
def test_each_client_has_a_connection_of_its_own(kind: Kind, live: LiveServer) -> None:
    """If a server ends the connection of a client that cancels too many calls, other clients' calls continue."""
    with link(live.server.address) as to, kind.open(to.address) as one, kind.open(to.address) as another:
        assert one.is_ready()
        assert another.is_ready()
        assert to.connections == 2
