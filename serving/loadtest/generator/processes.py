"""The generator's processes hold channels and requests, run blocks one after the other, and measure their threads.

The reporting process, which has its own interpreter lock, sends each of them a block and combines the results.
"""

import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hangtag.serving.loadtest.errors import GeneratorError
from hangtag.serving.loadtest.generator import executors
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import CHECK_TIMEOUT, Channel, clock, connect
from hangtag.serving.loadtest.generator.executors import Assignment
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts, Snapshot
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

TASKS = Path("/proc/self/task")


def busy_seconds(tasks: Path = TASKS) -> dict[str, float]:
    """How many seconds each thread of this process has computed or waited for a CPU so far, by thread id.

    Empty if the kernel does not count these times. Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    seconds = {}
    for task in tasks.glob("*"):
        try:
            computed, waited = (task / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue  # The thread has ended, or this kernel does not count the times.
        seconds[task.name] = (int(computed) + int(waited)) / 1e9
    return seconds


def busiest_share(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """The share of `seconds` in which the busiest thread was busy, from two `busy_seconds`; 0 without threads."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0) / seconds


SNAPSHOT_INTERVAL = 0.2  # Seconds.
# After a stop, answers to calls in flight may arrive for this many seconds before the calls are cancelled.
STOP_GRACE = 0.5


class Generator:
    """Issues one process's share of each block."""

    def __init__(
        self,
        pools: Mapping[str, RequestPool],
        settings: CallSettings,
        counts: SharedCounts,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Open the channels to the servers of all `pools`, whose keys are target names. Raises CredentialsError."""
        self._pools = pools
        self._settings = settings
        self._counts, self._process, self._processes = counts, process, processes
        DurationHistogram.prepare()
        self._channels: dict[str, list[Channel]] = {}
        for address in dict.fromkeys(pool.address for pool in pools.values()):
            self._channels[address] = [connect(address, settings.credentials) for _ in range(settings.channels)]

    @property
    def channel_names(self) -> str:
        """The names of the channel implementations in use, for the report."""
        return ", ".join(sorted({channel.name for channels in self._channels.values() for channel in channels}))

    def run(self, block: Block, keep_going: Callable[[Snapshot], bool]) -> BlockResult:
        """Run this process's share of a block.

        `keep_going` is called with a snapshot every SNAPSHOT_INTERVAL; the block ends early when it returns False.
        """
        pool = self._pools[block.target]
        channels = self._channels[pool.address]
        executor = executors.create(
            Assignment(block, channels, pool, self._settings, self._counts, self._process, self._processes)
        )
        cpu, wall, threads = time.process_time(), clock(), busy_seconds()
        pacer = threading.Thread(target=executor.pace, name="pacer", daemon=True)
        pacer.start()
        while not executor.drained.wait(SNAPSHOT_INTERVAL):
            if not keep_going(executor.snapshot()):
                executor.stop(early=True)
                if not executor.drained.wait(STOP_GRACE):
                    executor.abandon()
                    self.close()
                break
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

    def close(self) -> None:
        """Close the channels; calls in flight are cancelled."""
        for channels in self._channels.values():
            for channel in channels:
                channel.close()


# A thread that waits for the interpreter lock gets it after this many seconds. Python's default of 5 ms would delay
# sends.
SWITCH_INTERVAL = 0.0005
STOP = "stop"


def serve(
    connection: Connection,
    pools: Mapping[str, RequestPool],
    settings: CallSettings,
    counts: SharedCounts,
    process: int,
    processes: int,
) -> None:
    """Run blocks until the other end of the connection closes.

    First sends the names of the channel implementations. Then receives blocks, sends snapshots while a block runs, and
    sends the block's BlockResult when the block ends.
    """
    # Ctrl-C reaches the whole process group; the parent decides whether to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    generator = Generator(pools, settings, counts, process, processes)
    # No object that exists now is garbage, so the collector need not scan them again.
    gc.freeze()

    def keep_going(snapshot: Snapshot) -> bool:
        connection.send(snapshot)
        return not (connection.poll() and connection.recv() == STOP)

    try:
        connection.send(generator.channel_names)
        while True:
            block = connection.recv()
            if block != STOP:  # The parent sent STOP just as a block ended.
                connection.send(generator.run(block, keep_going))
    except (EOFError, OSError):
        generator.close()


# Seconds after which a stop requested in this process is passed on.
POLL_INTERVAL = 0.1
# Seconds between sending a block and its start, so that every process has received the block. A single process can
# start at once.
LEAD = 0.05
START_TIMEOUT = 60.0 + CHECK_TIMEOUT


class GeneratorProcesses:
    """A context manager that starts the processes, and `run`s blocks on them.

    Example:
        with GeneratorProcesses({"cnn": pool}, CallSettings(), processes=2, stop=threading.Event()) as generators:
            result = generators.run(block, on_progress=print)
    """

    def __init__(
        self, pools: Mapping[str, RequestPool], settings: CallSettings, processes: int, stop: threading.Event
    ) -> None:
        """Prepare the processes, which start and connect when the context opens. `pools`: target name -> requests."""
        # Spawned, not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._counts = SharedCounts(context, processes)
        self._stop = stop
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._child_ends: list[Connection] = []
        self.channel_names = ""  # The channel implementations in use, for the report.
        for process in range(processes):
            parent_end, child_end = context.Pipe()
            arguments = (child_end, pools, settings, self._counts, process, processes)
            self._processes.append(
                context.Process(target=serve, args=arguments, name=f"generator-{process}", daemon=True)
            )
            self._connections.append(parent_end)
            self._child_ends.append(child_end)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        # Only the children keep their ends open, so that a child's death closes its connection here.
        for child_end in self._child_ends:
            child_end.close()
        try:
            names = {self._receive(process, START_TIMEOUT) for process in range(len(self))}
        except BaseException:
            self._end()
            raise
        self.channel_names = ", ".join(sorted(names))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __len__(self) -> int:
        return len(self._processes)

    def run(self, block: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        """Run one block to its end, or until the stop event is set. Each process issues its share.

        Raises:
            GeneratorError: When a process ended unexpectedly.
        """
        self._counts.reset()
        block = replace(block, start=clock() + LEAD) if len(self) > 1 else block
        for process in range(len(self)):
            self._send(process, block)
        results: dict[int, BlockResult] = {}
        snapshots: dict[int, Snapshot] = {}
        stop_sent = False
        while len(results) < len(self):
            if self._stop.is_set() and not stop_sent:
                for process in range(len(self)):
                    self._send(process, STOP)
                stop_sent = True
            running = [self._connections[process] for process in range(len(self)) if process not in results]
            for ready in wait(running, POLL_INTERVAL):
                process = self._connections.index(ready)  # type: ignore[arg-type]
                message = self._receive(process)
                if isinstance(message, BlockResult):
                    results[process] = message
                else:
                    snapshots[process] = message
                    on_progress(_combined(list(snapshots.values())))
        return BlockResult.from_processes([results[process] for process in range(len(self))], block.limits)

    def _send(self, process: int, message: object) -> None:
        try:
            self._connections[process].send(message)
        except OSError as error:
            raise self._process_ended(process) from error

    def _receive(self, process: int, timeout: float | None = None) -> Any:
        try:
            if timeout is not None and not self._connections[process].poll(timeout):
                raise GeneratorError(f"a generator process was not ready within {timeout:g} s")
            return self._connections[process].recv()
        except (EOFError, OSError) as error:
            raise self._process_ended(process) from error

    def _process_ended(self, number: int) -> GeneratorError:
        process = self._processes[number]
        process.join(timeout=2.0)
        return GeneratorError(
            f"a generator process ended unexpectedly (exit code {process.exitcode}); its output on stderr says why"
        )

    def _end(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=2.0)
            if process.is_alive():
                process.kill()
                process.join()


def _combined(parts: list[Snapshot]) -> Snapshot:
    """Combine the snapshots of all processes. Percentiles cannot be added, so the worst process's percentiles are
    shown."""
    return Snapshot(
        elapsed=max(part.elapsed for part in parts),
        queries=sum(part.queries for part in parts),
        failed=sum(part.failed for part in parts),
        rate=sum(part.rate for part in parts),
        p50=_worst([part.p50 for part in parts]),
        p99=_worst([part.p99 for part in parts]),
    )


def _worst(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
