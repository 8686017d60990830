"""Runs the generator's processes, which own channels and requests, run one block at a time, and time their threads.

The reporting process gives each block to every generator process, and combines the results. Each process has its own
interpreter lock.
"""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.generator import executors
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import Channel, clock, connect
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


class Generator:
    """The requests and channels of a generator process, which has one object of this class."""

    own: ClassVar["Generator"]

    def __init__(self, pools: Mapping[str, RequestPool], share: Share) -> None:
        """Connect this process to the servers. `pools` has the requests by target."""
        # Ctrl-C reaches all processes of the group, but only the reporting process decides whether to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.channels: dict[str, list[Channel]] = {pool.address: [] for pool in pools.values()}
        for address, channels in self.channels.items():
            for _ in range(share.channels):
                channels.append(connect(address, share.credentials))
                atexit.register(channels[-1].close)
        self._pools, self._share = pools, share
        Generator.own = self
        # No object that exists now is garbage, so the garbage collector need not scan these objects again.
        gc.freeze()

    def run(self, block: Block) -> BlockResult:
        """Run this process's share of a block."""
        pool = self._pools[block.target]
        executor = executors.create(block, self.channels[pool.address], pool, self._share)
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


def _channel_names() -> set[str]:
    return {channel.name for channels in Generator.own.channels.values() for channel in channels}


def _run(block: Block) -> BlockResult:
    return Generator.own.run(block)


# A stop that is requested in this process reaches the generator processes within this many seconds.
POLL_INTERVAL = 0.1
# The seconds between sending a block and the block's start, so that every process has received the block. If there is
# only one process, the block starts at once.
LEAD = 0.05


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
        context = multiprocessing.get_context("spawn")
        processes = scenario.generator_processes
        self._counts, self._stop = SharedCounts(context, processes), stop
        shares = [
            Share(self._counts, number, processes, scenario.channels, scenario.deadline, credentials)
            for number in range(processes)
        ]
        # With one executor for each process, every process gets its own share of each block.
        self._processes = [ProcessPoolExecutor(1, context, Generator, (pools, share)) for share in shares]
        self.channel_names = ""  # The channel implementations that are in use, for the report.

    def __enter__(self) -> Self:
        self.channel_names = ", ".join(sorted(set().union(*self._on_each(_channel_names))))
        return self

    def __exit__(self, *_: object) -> None:
        self._counts.stopped.value = True
        for process in self._processes:
            process.shutdown()

    def run(self, block: Block, on_progress: Callable[[int], None]) -> BlockResult:
        """Run one block to its end, or until the stop event is set. Each process issues its share of the queries.

        `on_progress` is called with the number of completed queries about ten times per second.

        Raises:
            LoadTestError: A process ended unexpectedly.
        """
        self._counts.reset()
        if len(self._processes) > 1:
            block = replace(block, start=clock() + LEAD)
        return BlockResult.from_processes(self._on_each(_run, block, on_progress=on_progress), block.limits)

    def _on_each(
        self, work: Callable[..., Any], *arguments: Any, on_progress: Callable[[int], None] | None = None
    ) -> list[Any]:
        """Call a function in every process, and return the results. Raises LoadTestError if a process has ended."""
        try:
            futures = running = [process.submit(work, *arguments) for process in self._processes]
            while running:
                done, pending = wait(running, POLL_INTERVAL, FIRST_COMPLETED)
                _ = [future.result() for future in done]  # raises an exception if a process has ended
                running = list(pending)
                if self._stop.is_set():
                    self._counts.stopped.value = True
                if on_progress is not None:
                    on_progress(self._counts.queries)
        except BrokenProcessPool as error:
            raise LoadTestError(
                "a generator process ended unexpectedly. Its output on standard error may say why"
            ) from error
        return [future.result() for future in futures]
