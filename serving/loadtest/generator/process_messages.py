"""Defines what the processes of a load test exchange: requests, blocks, and counts in shared memory."""

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
    """The serialised requests for one target, which are sent in rotation. `method` is the full gRPC method name."""

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class Block:
    """A part of a run: queries to one target under one load, without a pause."""

    target: str
    load: Load
    limits: Limits
    warm_up: float  # The seconds before measuring starts.
    seed: int
    round: int  # Distinguishes the schedules of blocks with the same seed.
    start: float = 0.0  # On the monotonic clock that all processes of a machine share; 0 for now.


class SharedCounts:
    """Lets each process see how many queries all processes together have completed, and whether the test was stopped.

    No lock is needed: each process writes only its own count, and only the first process that reaches the end writes
    `end`.

    Attributes:
        end: The time on the monotonic clock at which the block's measuring ended; 0 while measuring continues.
        stopped: Whether the test was stopped, so that the current block and all later blocks end at once.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        """Allocate memory that is filled with zeros. Pass this object to each process at the process's start."""
        # mypy regards the types of ctypes as Any.
        self._counts: Any = context.RawArray(ctypes.c_int64, processes)
        self.end: Any = context.RawValue(ctypes.c_double, 0.0)
        self.stopped: Any = context.RawValue(ctypes.c_bool, False)

    def reset(self) -> None:
        """Start a new block. Call this method while no process is running a block."""
        self._counts[:] = [0] * len(self._counts)
        self.end.value = 0.0

    def update(self, process: int, queries: int) -> int:
        """Set the number of queries that process number `process` has completed, and return the sum over all."""
        self._counts[process] = queries
        return self.queries

    @property
    def queries(self) -> int:
        """The number of queries of the current block that all processes together have completed."""
        return sum(self._counts)


@dataclass(frozen=True)
class Share:
    """The share of each block that process number `process` of `processes` issues, and the settings of the calls.

    A call that has not ended `lost_after` seconds after its deadline is lost. If an overloaded server cuts a
    connection, gRPC's core (grpcio 1.85) sometimes never reports the end of the connection's calls.
    """

    counts: SharedCounts
    process: int = 0
    processes: int = 1
    channels: int = 1  # Connections to each server.
    deadline: float = 10.0  # Seconds.
    credentials: Credentials = field(default_factory=Credentials)
    lost_after: float = 5.0
