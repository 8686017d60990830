"""The generator of one process: holds channels and requests, and runs blocks one after the other."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from hangtag.serving.loadtest.generator import executors, thread_times
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels.channel import Channel, clock
from hangtag.serving.loadtest.generator.channels.connect import connect
from hangtag.serving.loadtest.generator.executors.executor import Assignment
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts, Snapshot
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

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
        """Open the channels to the servers of all `pools`, which are by target name. Raises CredentialsError."""
        self._pools = pools
        self._settings = settings
        self._counts, self._process, self._processes = counts, process, processes
        DurationHistogram.prepare()
        self._channels: dict[str, list[Channel]] = {}
        for address in dict.fromkeys(pool.address for pool in pools.values()):
            self._channels[address] = [
                connect(address, settings.credentials, public_api=settings.public_api) for _ in range(settings.channels)
            ]

    @property
    def channel_names(self) -> str:
        """The channel implementations in use, for the report."""
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
        cpu, wall, threads = time.process_time(), clock(), thread_times.busy_seconds()
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
        busy = thread_times.busiest_share(threads, thread_times.busy_seconds(), seconds)
        cpus = (time.process_time() - cpu) / seconds
        share = cpus / len(os.sched_getaffinity(0))
        return replace(executor.result(), generator_cpu=cpus, generator_busy=busy, cpu_share=share)

    def close(self) -> None:
        """Close the channels; calls in flight are cancelled."""
        for channels in self._channels.values():
            for channel in channels:
                channel.close()
