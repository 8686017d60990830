"""Runs the generator processes, which send one block at a time, and measure how busy their own threads are."""

import gc
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hangtag.protos import methods
from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import Channel, CompletionQueueChannel, RequestPool, clock
from hangtag.serving.loadtest.generator.executors import Executor, Share, SharedCounts, create
from hangtag.serving.loadtest.generator.http_channel import LIVE, HttpChannel, as_text
from hangtag.serving.loadtest.plan.load import Block
from hangtag.serving.loadtest.plan.scenario import Scenario

CHECK_TIMEOUT = 5.0  # Seconds.
# The seconds after which a waiting thread gets the interpreter lock. Python's default of 5 ms would delay queries.
SWITCH_INTERVAL = 0.0005


def channel_kind(address: str) -> type[HttpChannel] | type[CompletionQueueChannel]:
    return HttpChannel if server_address.is_http(address) else CompletionQueueChannel


def connect(address: str, credentials: Credentials) -> Channel:
    """Open a channel, and make one call, so that no measured query includes the time to connect.

    If the server is unreachable, this function raises nothing, and later calls end with the status UNAVAILABLE. Raises
    CredentialsError if the credentials' files cannot be read.
    """
    channel = channel_kind(address)(address, credentials)
    request = as_text(address, LIVE) if isinstance(channel, HttpChannel) else b""
    ended: SimpleQueue[None] = SimpleQueue()
    metadata = credentials.metadata() or None
    channel.send(methods.SERVER_LIVE, request, CHECK_TIMEOUT, metadata, None, lambda *_: ended.put(None))
    ended.get(timeout=2 * CHECK_TIMEOUT)
    return channel


def busy_seconds() -> dict[str, float]:
    """Return the seconds for which each thread of this process has computed or waited for a CPU, by thread id; empty if
    the kernel does not record these times. Source: Linux, Documentation/scheduler/sched-stats.rst."""
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            computed, waited = (task / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue  # The thread has ended, or the kernel does not record the times.
        seconds[task.name] = (int(computed) + int(waited)) / 1e9
    return seconds


def serve(connection: Connection, pools: Mapping[str, RequestPool], share: Share) -> None:
    """Run a generator process: connect to the targets' servers, and execute each block that arrives on `connection`,
    until the other end of the connection is closed. `pools` has the requests for each target."""
    # Ctrl-C reaches all processes of the group, but only the reporting process decides whether to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.setswitchinterval(SWITCH_INTERVAL)
    channels: dict[str, list[Channel]] = {
        address: [connect(address, share.credentials) for _ in range(share.channels)]
        for address in {pool.address for pool in pools.values()}
    }
    # No object that exists now is garbage, so the garbage collector need not scan these objects again.
    gc.freeze()
    with suppress(EOFError, ConnectionError):
        connection.send("connected")
        while True:
            block = connection.recv()
            pool = pools[block.target]
            connection.send(_run(create(block, channels[pool.address], pool, share)))
    for channel in itertools.chain(*channels.values()):
        channel.close()


def _run(executor: Executor) -> BlockResult:
    cpu, wall, threads = time.process_time(), clock(), busy_seconds()
    result = executor.run()
    seconds = max(clock() - wall, 1e-9)
    spent = [after - threads.get(thread, 0.0) for thread, after in busy_seconds().items()]
    busy = max(spent, default=0.0) / seconds
    cpus = (time.process_time() - cpu) / seconds
    return replace(
        result,
        generator_cpu=cpus,
        generator_busy=busy,
        generator_latency_share=executor.latency_share(min(max(cpus, busy), 1.0)),
        generator_cpu_share=cpus / len(os.sched_getaffinity(0)),
    )


def _end_with_parent() -> None:
    """End this process when the reporting process has ended, even if the reporting process was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# A stop that is requested in this process reaches the generator processes within this many seconds.
POLL_INTERVAL = 0.1
# A block starts this many seconds after it is sent, so that every process has received the block by then. If there is
# only one process, the block starts at once.
LEAD = 0.05
# The load test fails if a process has not started and connected within this many seconds.
START_TIMEOUT = 60.0 + CHECK_TIMEOUT
# A process is killed if it still runs this many seconds after the test. If gRPC never reports the end of a call, the
# call's channel never closes, and the process would never end.
EXIT_TIMEOUT = 2.0


class GeneratorProcesses:
    """Runs blocks on all generator processes. `processes` maps each connection to the process at its other end."""

    def __init__(self, counts: SharedCounts, stop: threading.Event) -> None:
        self._counts, self._stop = counts, stop
        self.processes: dict[Any, BaseProcess] = {}

    def run(self, block: Block, on_progress: Callable[[int], None]) -> BlockResult:
        """Run one block to its end, or until the stop event is set. Each process issues its share of the queries.

        `on_progress` is called with the number of completed queries about ten times per second.

        Raises LoadTestError if a process ended unexpectedly.
        """
        self._counts.completed[:] = [0] * len(self.processes)
        self._counts.end.value = 0.0
        if len(self.processes) > 1:
            block = replace(block, start=clock() + LEAD)
        for connection in self.processes:
            with suppress(ConnectionError):  # If the process has ended, `receive` raises an error.
                connection.send(block)
        return BlockResult.from_processes(self.receive(on_progress), block.limits)

    def receive(self, on_progress: Callable[[int], None], timeout: float = math.inf) -> list[Any]:
        """Receive one message from every process.

        Raises LoadTestError if a process has ended, or if a message does not arrive within `timeout` seconds.
        """
        deadline = clock() + timeout
        messages: dict[Any, Any] = {}
        while len(messages) < len(self.processes):
            if clock() > deadline:
                raise LoadTestError(f"a generator process was not ready within {timeout:g} s")
            ready: list[Any] = wait(self.processes.keys() - messages.keys(), POLL_INTERVAL)
            for connection in ready:
                try:
                    messages[connection] = connection.recv()
                except (EOFError, ConnectionError) as error:
                    raise LoadTestError(
                        "a generator process ended unexpectedly. Its output on standard error may say why"
                    ) from error
            if self._stop.is_set():
                self._counts.stopped.value = True
            on_progress(sum(self._counts.completed))
        return [messages[connection] for connection in self.processes]


@contextmanager
def connected(
    pools: Mapping[str, RequestPool], scenario: Scenario, credentials: Credentials, stop: threading.Event
) -> Iterator[GeneratorProcesses]:
    """Start the generator processes, and wait until they have connected. `pools` has the requests by target. Raises
    LoadTestError if a process fails."""
    # The processes are spawned and not forked, because gRPC's threads do not survive a fork.
    context, count = multiprocessing.get_context("spawn"), scenario.generator_processes
    counts = SharedCounts(context, count)
    generators = GeneratorProcesses(counts, stop)
    try:
        for number in range(count):
            share = Share(counts, number, count, scenario.channels, scenario.deadline, credentials)
            connection, child_end = context.Pipe()
            process = context.Process(target=serve, args=(child_end, pools, share), daemon=True)
            process.start()
            generators.processes[connection] = process
            child_end.close()  # Now only the child has this end open, so the pipe closes when the child ends.
        generators.receive(lambda _: None, START_TIMEOUT)
        yield generators
    finally:
        counts.stopped.value = True
        for connection in generators.processes:
            connection.close()
        deadline = clock() + EXIT_TIMEOUT
        for running in generators.processes.values():
            running.join(max(deadline - clock(), 0.0))
            running.kill()
            running.join()
