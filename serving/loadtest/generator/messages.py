"""What the reporting process and the generator's processes exchange: messages in pipes, and counts in shared memory."""

import ctypes
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

from hangtag.protos import methods
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.plan.load import Limits, Load

INFER, CLASSIFY = methods.MODEL_INFER, methods.CLASSIFY


@dataclass(frozen=True)
class RequestPool:
    """The serialised requests for one target, sent in rotation; `method` is the full gRPC method name."""

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class CallSettings:
    """Settings of calls: connections per process and server, each call's deadline in seconds, credentials.

    A call that has not ended `lost_after` seconds after its deadline is lost. Under overload, if the server cuts a
    connection, gRPC's core (grpcio 1.85) sometimes never reports that its calls ended.
    """

    channels: int = 1
    deadline: float = 10.0
    credentials: Credentials = field(default_factory=Credentials)
    lost_after: float = 5.0


@dataclass(frozen=True)
class Block:
    """A part of a run: queries to one target under one load, without a pause.

    Attributes:
        target: The target's name.
        load: The load.
        limits: When the block ends.
        warm_up: Seconds before measuring starts.
        seed: The test's seed.
        round: Distinguishes the schedules of blocks with the same seed.
        start: When the block starts on the monotonic clock, which all processes of a machine share; 0 for now.
    """

    target: str
    load: Load
    limits: Limits
    warm_up: float
    seed: int
    round: int
    start: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The progress of a block: seconds, queries, queries per second."""

    elapsed: float
    queries: int
    failed: int
    rate: float
    p50: float
    p99: float


class SharedCounts:
    """Lets each process see how many queries all processes together have completed.

    No lock is needed: each process writes only its own count, and the first process to reach the end writes the end.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        """Allocate zeroed memory. Pass this object to each process at its start."""
        # ctypes' own array types, which mypy sees as Any.
        self._counts: Any = context.RawArray(ctypes.c_int64, processes)
        self._end: Any = context.RawValue(ctypes.c_double, 0.0)

    def reset(self) -> None:
        """Start a new block. Call this method while no process is running a block."""
        self._counts[:] = [0] * len(self._counts)
        self._end.value = 0.0

    def update(self, process: int, queries: int) -> int:
        """Set the number of queries that process number `process` has completed, and return the sum over all."""
        self._counts[process] = queries
        return sum(self._counts)

    @property
    def end(self) -> float:
        """When the block's measuring ended, on the monotonic clock; 0 while measuring continues."""
        return float(self._end.value)

    def finish(self, at: float) -> None:
        """End the block for all processes, unless it has ended already."""
        if not self._end.value:
            self._end.value = at
