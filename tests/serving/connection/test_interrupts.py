"""Ctrl-C while a client waits for an answer ends the wait: it is no failure of the call."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.serving.client import AsyncClient, Client
from tests.kit.fake_server import FakeServer, running
from tests.kit.kinds import Kind, every_kind
from tests.kit.web_server import Answer, web_server

INPUTS: dict[str, Any] = {"image": np.zeros((1, 28, 28), np.uint8)}


@pytest.fixture
def addresses() -> Iterator[dict[bool, str]]:
    """What to call over gRPC (False) and over HTTP (True): each interrupts this process, and does not answer."""
    ended = threading.Event()

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(30)

    def answer(_path: str) -> Answer:
        interrupt()
        return 200, {}, b""

    def behaviour(_number: int, _context: grpc.ServicerContext) -> None:
        interrupt()

    fake = FakeServer()
    fake.behaviour = behaviour
    with ExitStack() as stack:
        grpc_server, http_address = stack.enter_context(running(fake)), stack.enter_context(web_server(answer))
        stack.callback(ended.set)
        yield {False: grpc_server.address, True: f"http://{http_address}"}


@every_kind
def test_ctrl_c_is_raised_in_every_client(kind: Kind, addresses: dict[bool, str]) -> None:
    async def wait() -> None:
        async with AsyncClient(addresses[kind.http], timeout=30) as client:
            await client.infer("fast", INPUTS)

    if kind.asynchronous:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(wait())
    else:
        with Client(addresses[kind.http], timeout=30) as client, pytest.raises(KeyboardInterrupt):
            client.infer("fast", INPUTS)
