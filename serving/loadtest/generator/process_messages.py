"""Defines the messages in pipes and the counts in shared memory that the processes of a load test exchange."""

import ctypes
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

from hangtag.protos import methods
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.plan.load import Limits, Load
from hangtag.serving.loadtest.record import unstored

INFER, CLASSIFY = methods.MODEL_INFER, methods.CLASSIFY


@dataclass(frozen=True)
class RequestPool:
    """The serialised requests for one target, which are sent in rotation. `method` is the full gRPC method name."""

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class CallSettings:
    """The settings of calls: connections per process and server, each call's deadline in seconds, and credentials.

    A call that has not ended `lost_after` seconds after its deadline is lost. If an overloaded server cuts a
    connection, gRPC's core (grpcio 1.85) sometimes never reports the end of the connection's calls.
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
        limits: The limits at which the block ends.
        warm_up: The seconds before measuring starts.
        seed: The test's seed.
        round: A number that distinguishes the schedules of blocks with the same seed.
        start: The time at which the block starts, on the monotonic clock that all processes of a machine share; 0 for
            now.
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
    """The progress of a block: the failed queries so far, the answers per second, and the percentiles of the latency.

    For several processes, each percentile is the largest among the processes.
    """

    failed: int = unstored(combine=sum)
    rate: float = unstored(combine=sum)
    p50: float = unstored(combine=np.fmax.reduce)  # NaN before the first answer
    p99: float = unstored(combine=np.fmax.reduce)


class SharedCounts:
    """Lets each process see how many queries all processes together have completed, and whether the test was stopped.

    No lock is needed, because each process writes only its own count, and only the first process at the end writes the
    time of the end.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        """Allocate memory that is filled with zeros. Pass this object to each process at the process's start."""
        # mypy regards the array types of ctypes as Any.
        self._counts: Any = context.RawArray(ctypes.c_int64, processes)
        self._end: Any = context.RawValue(ctypes.c_double, 0.0)
        self._stopped: Any = context.RawValue(ctypes.c_bool, False)

    def reset(self) -> None:
        """Start a new block. Call this method while no process is running a block."""
        self._counts[:] = [0] * len(self._counts)
        self._end.value = 0.0

    def update(self, process: int, queries: int) -> int:
        """Set the number of queries that process number `process` has completed, and return the sum over all."""
        self._counts[process] = queries
        return sum(self._counts)

    @property
    def stopped(self) -> bool:
        """Whether the test was stopped, so that the current block and all later blocks end at once."""
        return bool(self._stopped.value)

    def stop(self) -> None:
        """Stop the test for all processes."""
        self._stopped.value = True

    @property
    def end(self) -> float:
        """Return the time on the monotonic clock at which the block's measuring ended; 0 while measuring continues."""
        return float(self._end.value)

    def finish(self, at: float) -> None:
        """End the block for all processes, unless the block has already ended."""
        if not self._end.value:
            self._end.value = at


@dataclass(frozen=True)
class Share:
    """The settings of calls, and the share of one process: number `process` of `processes`."""

    settings: CallSettings
    counts: SharedCounts
    process: int
    processes: int
