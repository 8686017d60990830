"""Runs the generator's processes, which own channels and requests, run one block at a time, and time their threads.

The reporting process sends each block to every generator process, and combines the results. Each process has its own
interpreter lock.
"""

import gc
import itertools
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
from pathlib import Path
from typing import Any, Self

from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.generator import executors
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import CHECK_TIMEOUT, Channel, clock, connect
from hangtag.serving.loadtest.generator.executors import Executor
from hangtag.serving.loadtest.generator.process_messages import (
    Block,
    CallSettings,
    RequestPool,
    Share,
    SharedCounts,
    Snapshot,
)
from hangtag.serving.loadtest.record import combined
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram


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


def busiest_share(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """Return the share of `seconds` in which the busiest thread was busy between two results of `busy_seconds`."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0) / seconds


SNAPSHOT_INTERVAL = 0.2  # Seconds.
# Calls that are still in flight this many seconds after a stop are cancelled.
STOP_GRACE = 0.5


def run(executor: Executor, counts: SharedCounts, on_progress: Callable[[Snapshot], None]) -> BlockResult:
    """Run this process's share of a block. `on_progress` is called every SNAPSHOT_INTERVAL seconds."""
    cpu, wall, threads = time.process_time(), clock(), busy_seconds()
    pacer = threading.Thread(target=executor.pace, name="pacer", daemon=True)
    pacer.start()
    while not executor.drained.wait(SNAPSHOT_INTERVAL):
        on_progress(executor.snapshot())
        if counts.stopped:
            executor.stop(early=True)
            if not executor.drained.wait(STOP_GRACE):
                executor.abandon()
        else:
            executor.check_limits()
            executor.give_up_lost_calls()
    pacer.join()
    seconds = max(clock() - wall, 1e-9)
    busy = busiest_share(threads, busy_seconds(), seconds)
    cpus = (time.process_time() - cpu) / seconds
    return replace(
        executor.result(),
        generator_cpu=cpus,
        generator_busy=busy,
        generator_latency_share=executor.latency_share(min(max(cpus, busy), 1.0)),
        generator_cpu_share=cpus / len(os.sched_getaffinity(0)),
    )


# The seconds after which a waiting thread gets the interpreter lock. Python's default of 5 ms would delay queries.
SWITCH_INTERVAL = 0.0005


def serve(connection: Connection, pools: Mapping[str, RequestPool], share: Share) -> None:
    """Run blocks until the other end of the connection closes. `pools` has the requests by target.

    This function first sends the names of the channel implementations. The function then receives blocks, sends
    snapshots while a block runs, and sends the block's BlockResult when the block ends.
    """
    # Ctrl-C reaches all processes of the group, but only the parent process decides whether to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    DurationHistogram()  # computes the buckets before the measurement
    settings = share.settings
    channels: dict[str, list[Channel]] = {
        address: [connect(address, settings.credentials) for _ in range(settings.channels)]
        for address in dict.fromkeys(pool.address for pool in pools.values())
    }
    # No object that exists now is garbage, so the garbage collector need not scan these objects again.
    gc.freeze()
    with suppress(EOFError, OSError):
        connection.send(", ".join(sorted({channel.name for each in channels.values() for channel in each})))
        while True:
            block = connection.recv()
            pool = pools[block.target]
            executor = executors.create(block, channels[pool.address], pool, share)
            connection.send(run(executor, share.counts, connection.send))
    for channel in itertools.chain(*channels.values()):
        channel.close()


# A stop that is requested in this process reaches the generator processes within this many seconds.
POLL_INTERVAL = 0.1
# The seconds between sending a block and the block's start, so that every process has received the block. If there is
# only one process, the block starts at once.
LEAD = 0.05
START_TIMEOUT = 60.0 + CHECK_TIMEOUT


class GeneratorProcesses:
    """A context manager that starts the generator processes. The method `run` runs a block on all processes.

    Example:
        with GeneratorProcesses({"cnn": pool}, CallSettings(), processes=2, stop=threading.Event()) as generators:
            result = generators.run(block, on_progress=print)
    """

    def __init__(
        self, pools: Mapping[str, RequestPool], settings: CallSettings, processes: int, stop: threading.Event
    ) -> None:
        """Prepare the processes, which start and connect when the context opens. `pools` has the requests by target."""
        # The processes are spawned and not forked, because gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._counts = SharedCounts(context, processes)
        self._stop = stop
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._child_ends: list[Connection] = []
        self.channel_names = ""  # The channel implementations that are in use, for the report.
        for process in range(processes):
            parent_end, child_end = context.Pipe()
            arguments = (child_end, pools, Share(settings, self._counts, process, processes))
            self._processes.append(
                context.Process(target=serve, args=arguments, name=f"generator-{process}", daemon=True)
            )
            self._connections.append(parent_end)
            self._child_ends.append(child_end)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        # Only the child process keeps the child's end of a connection open, so that a child's death closes the
        # connection.
        for child_end in self._child_ends:
            child_end.close()
        try:
            names = {self._receive(process, START_TIMEOUT) for process in range(len(self))}
        except BaseException:
            self.__exit__()
            raise
        self.channel_names = ", ".join(sorted(names))
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=2.0)
            if process.is_alive():
                process.kill()
                process.join()

    def __len__(self) -> int:
        return len(self._processes)

    def run(self, block: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        """Run one block to its end, or until the stop event is set. Each process issues its share of the queries.

        Raises:
            LoadTestError: A process ended unexpectedly.
        """
        self._counts.reset()
        block = replace(block, start=clock() + LEAD) if len(self) > 1 else block
        for process, connection in enumerate(self._connections):
            try:
                connection.send(block)
            except OSError as error:
                raise self._process_ended(process) from error
        results: dict[int, BlockResult] = {}
        snapshots: dict[int, Snapshot] = {}
        while len(results) < len(self):
            if self._stop.is_set():
                self._counts.stop()
            running = [self._connections[process] for process in range(len(self)) if process not in results]
            for ready in wait(running, POLL_INTERVAL):
                process = self._connections.index(ready)  # type: ignore[arg-type]
                message = self._receive(process)
                if isinstance(message, BlockResult):
                    results[process] = message
                else:
                    snapshots[process] = message
                    on_progress(combined(Snapshot, list(snapshots.values())))
        return BlockResult.from_processes([results[process] for process in range(len(self))], block.limits)

    def _receive(self, process: int, timeout: float | None = None) -> Any:
        try:
            if timeout is not None and not self._connections[process].poll(timeout):
                raise LoadTestError(f"a generator process was not ready within {timeout:g} s")
            return self._connections[process].recv()
        except (EOFError, OSError) as error:
            raise self._process_ended(process) from error

    def _process_ended(self, number: int) -> LoadTestError:
        process = self._processes[number]
        process.join(timeout=2.0)
        return LoadTestError(
            f"a generator process ended unexpectedly (exit code {process.exitcode}). Its output on stderr says why"
        )
