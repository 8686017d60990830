"""The generator's processes, as the reporting process drives them: sends each a block, and combines their results."""

import math
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from hangtag.serving.loadtest.errors import GeneratorError
from hangtag.serving.loadtest.generator import worker
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels.channel import clock
from hangtag.serving.loadtest.generator.channels.connect import CHECK_TIMEOUT
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts, Snapshot

# Seconds after which a stop requested in this process is passed on.
POLL_INTERVAL = 0.1
# Seconds between sending a block and its start, so that every process has received it. One process needs no lead.
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
        """Prepare the processes; they start, and connect, when the context opens. `pools` are by target name."""
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
                context.Process(target=worker.serve, args=arguments, name=f"generator-{process}", daemon=True)
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
            GeneratorError: When a process ended.
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
                    self._send(process, worker.STOP)
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
    """One snapshot over all processes. Percentiles cannot be added, so the worst process's are shown."""
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
