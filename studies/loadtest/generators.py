"""``make bench-generators``: which way to make calls from Python makes most of them?

Against the null server, so that all that is measured is the client, or against the real one, which shares the CPUs with
the client. Ratios are what counts: rounds take turns, each way in a fresh process. `hangtag` is the load test's whole
generator, with all that it records; `queue` and `futures` are its two ways to make a call, bare; the others are how
most Python clients call. Each is judged by the concurrency that suits it best.
"""

import asyncio
import gc
import itertools
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import grpc
from rich.console import Console

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels import Channel, CompletionQueueChannel, FutureChannel
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples import load
from hangtag.serving.loadtest.sut.null_server import null_server
from hangtag.serving.loadtest.sut.probe import Probe
from studies.loadtest import report, results
from studies.server.process import served

DEADLINE = 10.0
SWITCH_INTERVAL = 0.0005  # As in the generator's processes.

clock = time.perf_counter


def _own(calls: Channel, request: bytes, concurrency: int, seconds: float) -> int:
    end, done, count, left = clock() + seconds, threading.Event(), 0, concurrency
    lock = threading.Lock()

    def ended(_token: object, at: float, code: int, details: str) -> None:
        nonlocal count, left
        if code:
            raise RuntimeError(details)
        count += 1
        if at < end:
            calls.send(INFER, request, DEADLINE, None, None, ended)
            return
        with lock:
            left -= 1
            if not left:
                done.set()

    for _ in range(concurrency):
        calls.send(INFER, request, DEADLINE, None, None, ended)
    done.wait()
    calls.close()
    return count


def queue(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """grpcio's completion queue, driven directly."""
    return _own(CompletionQueueChannel(address, Credentials()), request, concurrency, seconds)


def futures(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """`.future()` with a callback."""
    return _own(FutureChannel(address, Credentials()), request, concurrency, seconds)


def sync(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """Blocking calls, a thread for each in flight."""
    counts = [0] * concurrency
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        end = clock() + seconds

        def work(place: int) -> None:
            while clock() < end:
                call(request, timeout=DEADLINE)
                counts[place] += 1

        threads = [threading.Thread(target=work, args=(place,)) for place in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts)


def aio(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """grpc.aio, a task for each in flight."""

    async def run() -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary(INFER)
            end = clock() + seconds

            async def work() -> int:
                count = 0
                while clock() < end:
                    await call(request, timeout=DEADLINE)
                    count += 1
                return count

            return sum(await asyncio.gather(*(work() for _ in range(concurrency))))

    return asyncio.run(run())


WAYS: Mapping[str, Callable[[str, bytes, int, float], int]] = MappingProxyType(
    {"queue": queue, "futures": futures, "aio": aio, "sync": sync}
)


def measure(way: str, address: str, request: bytes, concurrency: int, seconds: float) -> dict[str, float]:
    """Calls a second, and calls a CPU second of the client. Runs in a process of its own."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    cpu, wall = time.process_time(), clock()
    count = WAYS[way](address, request, concurrency, seconds)
    return {"throughput": count / (clock() - wall), "per_cpu_second": count / (time.process_time() - cpu)}


def hangtag(address: str, request: bytes, concurrency: int, seconds: float) -> dict[str, float]:
    """The same of the load test's generator, in one process of its own."""
    feeds, stop = {"bench": RequestPool(address, INFER, (request,))}, threading.Event()
    limits = Limits(seconds, 1, 2 * seconds, 10_000_000)
    with GeneratorProcesses(feeds, CallSettings(deadline=DEADLINE), 1, stop) as generators:
        block = Block("bench", ClosedLoop(concurrency), limits, warm_up=0.0, seed=0, round=0)
        result = generators.run(block, lambda _: None)
    return {"throughput": result.throughput, "per_cpu_second": result.throughput / result.generator_cpu}


@contextmanager
def _target(name: str) -> Iterator[tuple[str, bytes]]:
    """Its address and the request to send."""
    if name == "null":
        with null_server() as address:
            yield address, bytes(830)  # About one Fashion-MNIST image in a ModelInferRequest.
        return
    with served(Path("models"), "hot") as server, Probe(server.address, Credentials()) as probe:
        target = Target(name, name, server.address)
        yield server.address, load(target, probe.describe(target).metadata, 1, seed=0).requests[0]


@click.command()
@click.option("--server", type=click.Choice(["null", "lstm"]), default="null", show_default=True, help="What answers.")
@click.option("--concurrency", "concurrencies", multiple=True, type=int, default=(8, 64), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=results.FILE, show_default=True)
def main(server: str, concurrencies: tuple[int, ...], seconds: float, rounds: int, out: Path) -> None:
    """Print calls a second for each way at its best, and the ratio to the load test's own."""
    command = f"make bench-generators ARGS='--server {server} --rounds {rounds} --seconds {seconds:g}'"
    ways = ["hangtag", *WAYS]
    found = results.about(command) | {"ways": {way: {str(n): [] for n in concurrencies} for way in ways}}
    with _target(server) as (address, request):
        for number in range(rounds):
            for place, concurrency in itertools.product(range(len(ways)), concurrencies):
                way = ways[(place + number) % len(ways)]
                found["ways"][way][str(concurrency)].append(_one(way, address, request, concurrency, seconds))
    results.keep(f"generators on {server}", found, out)
    Console().print(report.generator_table(found))


def _one(way: str, address: str, request: bytes, concurrency: int, seconds: float) -> dict[str, float]:
    if way == "hangtag":
        return hangtag(address, request, concurrency, seconds)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (way, address, request, concurrency, seconds))


if __name__ == "__main__":
    main()
