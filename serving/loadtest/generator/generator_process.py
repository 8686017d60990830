"""Runs the generator's processes, which own channels and requests, run one block at a time, and time their threads.

The reporting process gives each block to every generator process, and combines the results. Each process has its own
interpreter lock.
"""

import gc
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.generator import executors
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import CHECK_TIMEOUT, Channel, clock, connect
from hangtag.serving.loadtest.generator.executors import Executor
from hangtag.serving.loadtest.generator.process_messages import Block, RequestPool, Share, SharedCounts
from hangtag.serving.loadtest.plan.scenario import Scenario


def busy_seconds() -> dict[str, float]:
    """Return the seconds for which each thread of this process has computed or waited for a CPU, by thread id.

    The result is empty if the kernel does not record these times. Source: Linux,
    Documentation/scheduler/sched-stats.rst.
    """
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            computed, waited = (task / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue  # The thread has ended, or the kernel does not record the times.
        seconds[task.name] = (int(computed) + int(waited)) / 1e9
    return seconds


# The seconds after which a waiting thread gets the interpreter lock. Python's default of 5 ms would delay queries.
SWITCH_INTERVAL = 0.0005


def serve(connection: Connection, pools: Mapping[str, RequestPool], share: Share) -> None:
    """Send the names of the channel implementations, then run blocks until the connection's other end closes.

    This function is a generator process's whole work: it receives a Block, runs this process's share of it, and sends
    the BlockResult. `pools` has the requests by target.
    """
    # Ctrl-C reaches all processes of the group, but only the reporting process decides whether to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.setswitchinterval(SWITCH_INTERVAL)
    channels: dict[str, list[Channel]] = {
        address: [connect(address, share.credentials) for _ in range(share.channels)]
        for address in {pool.address for pool in pools.values()}
    }
    every_channel = list(itertools.chain(*channels.values()))
    # No object that exists now is garbage, so the garbage collector need not scan these objects again.
    gc.freeze()
    with suppress(EOFError, ConnectionError):
        connection.send({channel.name for channel in every_channel})
        while True:
            block = connection.recv()
            pool = pools[block.target]
            connection.send(_run(executors.create(block, channels[pool.address], pool, share)))
    for channel in every_channel:
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
# The seconds between sending a block and the block's start, so that every process has received the block. If there is
# only one process, the block starts at once.
LEAD = 0.05
# The load test fails if a process has not started and connected within this many seconds.
START_TIMEOUT = 60.0 + CHECK_TIMEOUT
# A process that has not ended this many seconds after the test is killed. If gRPC never reports the end of a call, the
# call's channel never closes, and the process would never end.
EXIT_TIMEOUT = 2.0


class GeneratorProcesses:
    """A context manager that starts the generator processes. The method `run` runs a block on all processes."""

    def __init__(
        self,
        pools: Mapping[str, RequestPool],
        scenario: Scenario,
        credentials: Credentials,
        stop: threading.Event,
    ) -> None:
        """Prepare the processes, which start and connect when the context opens. `pools` has the requests by target."""
        # The processes are spawned and not forked, because gRPC's threads do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        processes = scenario.generator_processes
        self._counts, self._stop = SharedCounts(self._context, processes), stop
        self._pools = pools
        self._shares = [
            Share(self._counts, number, processes, scenario.channels, scenario.deadline, credentials)
            for number in range(processes)
        ]
        self._processes: dict[Any, BaseProcess] = {}  # The running processes by the connections to them.
        self.channel_names = ""  # The channel implementations that are in use, for the report.

    def __enter__(self) -> Self:
        try:
            for share in self._shares:
                connection, child_end = self._context.Pipe()
                process = self._context.Process(target=serve, args=(child_end, self._pools, share), daemon=True)
                process.start()
                self._processes[connection] = process
                child_end.close()  # Only the process keeps this end open, so the process's end closes the connection.
            names = self._receive(lambda _: None, START_TIMEOUT)
        except BaseException:
            self.__exit__()
            raise
        self.channel_names = ", ".join(sorted(set().union(*names)))
        return self

    def __exit__(self, *_: object) -> None:
        self._counts.stopped.value = True
        for connection in self._processes:
            connection.close()
        deadline = clock() + EXIT_TIMEOUT
        for process in self._processes.values():
            process.join(max(deadline - clock(), 0.0))
            process.kill()
            process.join()

    def run(self, block: Block, on_progress: Callable[[int], None]) -> BlockResult:
        """Run one block to its end, or until the stop event is set. Each process issues its share of the queries.

        `on_progress` is called with the number of completed queries about ten times per second.

        Raises:
            LoadTestError: A process ended unexpectedly.
        """
        self._counts.reset()
        if len(self._processes) > 1:
            block = replace(block, start=clock() + LEAD)
        for connection in self._processes:
            with suppress(ConnectionError):  # The process has ended, and `_receive` raises an error.
                connection.send(block)
        return BlockResult.from_processes(self._receive(on_progress), block.limits)

    def _receive(self, on_progress: Callable[[int], None], timeout: float = math.inf) -> list[Any]:
        """Receive one message from every process.

        Raises LoadTestError if a process has ended, or if a message does not arrive within `timeout` seconds.
        """
        deadline = clock() + timeout
        messages: dict[Any, Any] = {}
        while len(messages) < len(self._processes):
            if clock() > deadline:
                raise LoadTestError(f"a generator process was not ready within {timeout:g} s")
            ready: list[Any] = wait(self._processes.keys() - messages.keys(), POLL_INTERVAL)
            for connection in ready:
                try:
                    messages[connection] = connection.recv()
                except (EOFError, ConnectionError) as error:
                    raise LoadTestError(
                        "a generator process ended unexpectedly. Its output on standard error may say why"
                    ) from error
            if self._stop.is_set():
                self._counts.stopped.value = True
            on_progress(self._counts.queries)
        return [messages[connection] for connection in self._processes]
