"""``make bench-generators``: which way to make calls from Python makes most of them a CPU second?

Against the null server, so that all that is measured is the client. Ratios are what counts: rounds take turns, each way
in a fresh process. `queue` and `futures` are the load test's own two; the others are how most Python clients call.
"""

import asyncio
import gc
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Mapping
from statistics import median
from types import MappingProxyType
from typing import Any

import click
import grpc
from rich.console import Console
from rich.table import Table

from serving.credentials import Credentials
from serving.loadtest.generator.calls import Calls, FutureCalls, QueueCalls
from serving.loadtest.generator.null_server import null_server
from serving.loadtest.generator.orders import INFER

REQUEST = bytes(830)  # About one Fashion-MNIST image in a ModelInferRequest.
DEADLINE = 10.0
SWITCH_INTERVAL = 0.0005  # As in the generator's processes.

clock = time.perf_counter


def _own(calls: Calls, concurrency: int, seconds: float) -> int:
    end, done, count, left = clock() + seconds, threading.Event(), 0, concurrency
    lock = threading.Lock()

    def ended(_token: object, at: float, code: int, details: str) -> None:
        nonlocal count, left
        if code:
            raise RuntimeError(details)
        count += 1
        if at < end:
            calls.send(INFER, REQUEST, DEADLINE, None, None, ended)
            return
        with lock:
            left -= 1
            if not left:
                done.set()

    for _ in range(concurrency):
        calls.send(INFER, REQUEST, DEADLINE, None, None, ended)
    done.wait()
    calls.close()
    return count


def queue(address: str, concurrency: int, seconds: float) -> int:
    """grpcio's completion queue, driven directly."""
    return _own(QueueCalls(address, Credentials()), concurrency, seconds)


def futures(address: str, concurrency: int, seconds: float) -> int:
    """`.future()` with a callback."""
    return _own(FutureCalls(address, Credentials()), concurrency, seconds)


def sync(address: str, concurrency: int, seconds: float) -> int:
    """Blocking calls, a thread for each in flight."""
    counts = [0] * concurrency
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        end = clock() + seconds

        def work(place: int) -> None:
            while clock() < end:
                call(REQUEST, timeout=DEADLINE)
                counts[place] += 1

        threads = [threading.Thread(target=work, args=(place,)) for place in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts)


def aio(address: str, concurrency: int, seconds: float) -> int:
    """grpc.aio, a task for each in flight."""

    async def run() -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary(INFER)
            end = clock() + seconds

            async def work() -> int:
                count = 0
                while clock() < end:
                    await call(REQUEST, timeout=DEADLINE)
                    count += 1
                return count

            return sum(await asyncio.gather(*(work() for _ in range(concurrency))))

    return asyncio.run(run())


WAYS: Mapping[str, Callable[[str, int, float], int]] = MappingProxyType(
    {"queue": queue, "futures": futures, "aio": aio, "sync": sync}
)


def measure(way: str, address: str, concurrency: int, seconds: float) -> tuple[float, float]:
    """Calls a second, and calls a CPU second of the client. Runs in a process of its own."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    cpu, wall = time.process_time(), clock()
    count = WAYS[way](address, concurrency, seconds)
    return count / (clock() - wall), count / (time.process_time() - cpu)


@click.command()
@click.option("--concurrency", default=64, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Of each run.")
@click.option("--rounds", default=5, show_default=True)
def main(concurrency: int, seconds: float, rounds: int) -> None:
    """Print calls a second and a CPU second for each way, and the ratio to the load test's own."""
    seen: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with null_server() as address:
        for number in range(rounds):
            for place in range(len(WAYS)):
                way = list(WAYS)[(place + number) % len(WAYS)]
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seen[way].append(pool.apply(measure, (way, address, concurrency, seconds)))
    table = Table("way", "calls/s", "calls a CPU second", "of queue's", box=None)
    per_cpu = {way: median(figures[1] for figures in seen[way]) for way in WAYS}
    for way in WAYS:
        rate = median(figures[0] for figures in seen[way])
        table.add_row(way, f"{rate:,.0f}", f"{per_cpu[way]:,.0f}", f"{per_cpu[way] / per_cpu['queue']:.2f}")
    Console().print(f"{concurrency} in flight, median of {rounds} rounds of {seconds:g} s")
    Console().print(table)


if __name__ == "__main__":
    main()
