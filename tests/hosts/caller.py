"""Calls servers 20 times a second, and writes a line of JSON about each call when the program ends.

The program ends when its standard input ends. `python -m tests.hosts.caller --help` shows the options.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import click
import numpy as np

from hangtag import AsyncClient, Client, ClientError, ConnectionOptions

MODEL = "number"
OK = "OK"
NO_HOST = -1
DEADLINE = 10.0
_PAUSE = 1 / 20
_MOST_IN_FLIGHT = 1000
_INPUTS = {"x": np.zeros((1, 2), np.float32)}


class Call(NamedTuple):
    """One call. Its times are in seconds of this machine's monotonic clock, which all processes share.

    Attributes:
        start: When the call was sent.
        end: When the call was answered or failed.
        outcome: OK, or the name of gRPC's status code.
        host: The number of the host that answered; NO_HOST if the call failed.
    """

    start: float
    end: float
    outcome: str
    host: int


@click.command()
@click.option("--address", required=True)
@click.option("--threads", is_flag=True, help="Use Client in threads instead of AsyncClient.")
@click.option("--round-robin", is_flag=True)
@click.option("--retries", type=int, default=3)
@click.option("--timeout", type=float, default=DEADLINE)
def main(address: str, threads: bool, round_robin: bool, retries: int, timeout: float) -> None:
    """Make calls until standard input ends."""
    options = ConnectionOptions(retries=retries, round_robin=round_robin)
    asyncio.run((_by_threads if threads else _by_tasks)(address, timeout, options))


async def _by_threads(address: str, timeout: float, options: ConnectionOptions) -> None:
    with ThreadPoolExecutor(_MOST_IN_FLIGHT) as pool, Client(address, timeout=timeout, options=options) as client:
        loop = asyncio.get_running_loop()
        await _steadily(lambda: loop.run_in_executor(pool, client.infer, MODEL, _INPUTS))


async def _by_tasks(address: str, timeout: float, options: ConnectionOptions) -> None:
    async with AsyncClient(address, timeout=timeout, options=options) as client:
        await _steadily(lambda: client.infer(MODEL, _INPUTS))


async def _steadily(infer: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Start a call after each pause, whether or not the earlier calls have ended, until standard input ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    next_start = loop.time()
    async with asyncio.TaskGroup() as calls:
        while not ended.is_set():
            calls.create_task(_call(infer))
            next_start += _PAUSE
            await asyncio.sleep(next_start - loop.time())


async def _call(infer: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    start = time.monotonic()
    try:
        answer = await infer()
    except ClientError as error:
        call = Call(start, time.monotonic(), error.code.name, NO_HOST)
    else:
        call = Call(start, time.monotonic(), OK, int(answer["y"][0, 0]))
    click.echo(json.dumps(call))


if __name__ == "__main__":
    main()
