"""The processes that send, seen from the one that reports: orders out to all of them, their parts joined."""

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
from hangtag.serving.loadtest.generator.channels import CHECK_TIMEOUT, clock
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.shared_counts import SharedCounts

# How soon (seconds) a stop asked for in this process is passed on.
POLL_INTERVAL = 0.1
# Between an order and its first query: every process has it by then. One needs no such time.
LEAD = 0.05
START_TIMEOUT = 60.0 + CHECK_TIMEOUT


class GeneratorProcesses:
    """A generator of several processes, used as a context manager. `run` blocks, and ends early once `stop` is set."""

    def __init__(
        self, feeds: Mapping[str, RequestPool], connections: CallSettings, processes: int, stop: threading.Event
    ) -> None:
        """`feeds` by target name. The processes start, and connect, when the context opens."""
        # Spawned, not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._tally = SharedCounts(context, processes)
        self._stop = stop
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._theirs: list[Connection] = []
        self.path = ""
        for place in range(processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, feeds, connections, self._tally, place, processes)
            self._processes.append(
                context.Process(target=worker.serve, args=arguments, name=f"generator-{place}", daemon=True)
            )
            self._connections.append(ours)
            self._theirs.append(theirs)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        # Only the children hold their ends now, so that their death is the end of these.
        for theirs in self._theirs:
            theirs.close()
        try:
            self.path = ", ".join(sorted({self._receive(place, START_TIMEOUT) for place in range(len(self))}))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __len__(self) -> int:
        return len(self._processes)

    def run(self, block: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        """Run one block. Raises GeneratorError when a process ended."""
        self._tally.reset()
        block = replace(block, start=clock() + LEAD) if len(self) > 1 else block
        for place in range(len(self)):
            self._send(place, block)
        results: dict[int, BlockResult] = {}
        snapshots: dict[int, Snapshot] = {}
        asked_to_stop = False
        while len(results) < len(self):
            if self._stop.is_set() and not asked_to_stop:
                for place in range(len(self)):
                    self._send(place, worker.STOP)
                asked_to_stop = True
            waiting = [self._connections[place] for place in range(len(self)) if place not in results]
            for ready in wait(waiting, POLL_INTERVAL):
                place = self._connections.index(ready)  # type: ignore[arg-type]
                message = self._receive(place)
                if isinstance(message, BlockResult):
                    results[place] = message
                else:
                    snapshots[place] = message
                    on_progress(_together(list(snapshots.values())))
        return BlockResult.from_processes([results[place] for place in range(len(self))], block.limits)

    def _send(self, place: int, message: object) -> None:
        try:
            self._connections[place].send(message)
        except OSError as error:
            raise self._ended(place) from error

    def _receive(self, place: int, timeout: float | None = None) -> Any:
        try:
            if timeout is not None and not self._connections[place].poll(timeout):
                raise GeneratorError(f"a process that generates the load was not ready within {timeout:g} s")
            return self._connections[place].recv()
        except (EOFError, OSError) as error:
            raise self._ended(place) from error

    def _ended(self, place: int) -> GeneratorError:
        process = self._processes[place]
        process.join(timeout=2.0)
        return GeneratorError(
            f"a process that generates the load ended unexpectedly (exit code {process.exitcode}); "
            "what it wrote to stderr says why"
        )

    def _end(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=2.0)
            if process.is_alive():
                process.kill()
                process.join()


def _together(parts: list[Snapshot]) -> Snapshot:
    """How the block stands over all processes. Percentiles cannot be added: the worst process's are shown."""
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
