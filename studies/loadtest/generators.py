"""Compares the ways to make gRPC calls from Python by the number of calls that each makes in a second.

The server is the null server, so that the client alone is measured, or the real one, which shares the CPUs with the
client. The ways take turns, each in a fresh process, and ratios are what counts. `hangtag` is the load test's whole
generator with all that it records; `queue` and `futures` are its two kinds of channel alone; `aio` and `sync` are how
most Python clients call. Each way is judged at the concurrency where it is fastest.
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
from hangtag.serving.loadtest.generator.channels.channel import Channel
from hangtag.serving.loadtest.generator.channels.grpc_channels import CompletionQueueChannel, FutureChannel
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples import load
from hangtag.serving.loadtest.sut.null_server import null_server
from hangtag.serving.loadtest.sut.probe import Probe
from studies import results
from studies.loadtest import conditions, report
from studies.server.process import hangtag_serve, served

DEADLINE = 10.0
SWITCH_INTERVAL = 0.0005  # As in the generator's processes.

clock = time.perf_counter


def _closed_loop(calls: Channel, request: bytes, concurrency: int, seconds: float) -> int:
    end, finished, count, in_flight = clock() + seconds, threading.Event(), 0, concurrency
    lock = threading.Lock()

    def ended(_token: object, _sent: float, at: float, code: int, details: str) -> None:
        nonlocal count, in_flight
        if code:
            raise RuntimeError(details)
        count += 1
        if at < end:
            calls.send(INFER, request, DEADLINE, None, None, ended)
            return
        with lock:
            in_flight -= 1
            if not in_flight:
                finished.set()

    for _ in range(concurrency):
        calls.send(INFER, request, DEADLINE, None, None, ended)
    finished.wait()
    calls.close()
    return count


def queue(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """grpcio's completion queue, driven directly."""
    return _closed_loop(CompletionQueueChannel(address, Credentials()), request, concurrency, seconds)


def futures(address: str, request: bytes, concurrency: int, seconds: float) -> int:
    """`.future()` with a callback."""
    return _closed_loop(FutureChannel(address, Credentials()), request, concurrency, seconds)


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
    """The same figures of the load test's generator, in one process of its own."""
    feeds, stop = {"bench": RequestPool(address, INFER, (request,))}, threading.Event()
    limits = Limits(seconds, 1, 2 * seconds, 10_000_000)
    with GeneratorProcesses(feeds, CallSettings(deadline=DEADLINE), 1, stop) as generators:
        block = Block("bench", ClosedLoop(concurrency), limits, warm_up=0.0, seed=0, round=0)
        result = generators.run(block, lambda _: None)
    return {"throughput": result.throughput, "per_cpu_second": result.throughput / result.generator_cpu}


@contextmanager
def _target(name: str) -> Iterator[tuple[str, bytes]]:
    """A server's address and the request to send to it."""
    if name == "null":
        with null_server() as address:
            yield address, bytes(830)  # About one Fashion-MNIST image in a ModelInferRequest.
        return
    launch = hangtag_serve(Path("models"), "--transport", "native")
    with served(launch) as server, Probe(server.address, Credentials()) as probe:
        target = Target(name, name, server.address)
        yield server.address, load(target, probe.describe(target).metadata, 1, seed=0).requests[0]


@click.command()
@click.option(
    "--server", type=click.Choice(["null", "lstm"]), default="null", show_default=True, help="The server to call."
)
@click.option("--concurrency", "concurrencies", multiple=True, type=int, default=(8, 64), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=conditions.RESULTS, help="The results file.")
def main(server: str, concurrencies: tuple[int, ...], seconds: float, rounds: int, out: Path) -> None:
    """Print calls a second for each way at its best, and the ratio to the load test's own."""
    command = f"python -m studies loadtest generators --server {server} --rounds {rounds} --seconds {seconds:g}"
    ways = ["hangtag", *WAYS]
    line = conditions.line(f"generators on {server}", command)
    line["ways"] = {way: {str(n): [] for n in concurrencies} for way in ways}
    with _target(server) as (address, request):
        for number in range(rounds):
            for place, concurrency in itertools.product(range(len(ways)), concurrencies):
                way = ways[(place + number) % len(ways)]
                line["ways"][way][str(concurrency)].append(_one(way, address, request, concurrency, seconds))
    results.record(out, line)
    Console().print(report.generator_table(line))


def _one(way: str, address: str, request: bytes, concurrency: int, seconds: float) -> dict[str, float]:
    if way == "hangtag":
        return hangtag(address, request, concurrency, seconds)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (way, address, request, concurrency, seconds))
