"""The entry of a model's queue: one request, whatever brought it, from its admission to its one outcome."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings

log = structlog.get_logger()

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by the names of a model's inputs or outputs."""

_SAMPLE = 1000
"""Texts of an array that are looked at for the memory that they all take."""


def memory_of(array: npt.NDArray[Any]) -> int:
    """How many bytes an array takes. Of many texts, it looks at a few, so that it never takes long."""
    if array.dtype != np.object_ or not array.size:
        return array.nbytes
    sample = array.flat[:_SAMPLE]
    return array.nbytes + sum(map(sys.getsizeof, sample)) * array.size // len(sample)


class InferenceResult(NamedTuple):
    """The outputs of one request, and how long each step took."""

    outputs: Tensors
    timings: Timings


class Queue(Protocol):
    """What a call waits in: a model's batcher, or a route's members."""

    def cancel(self, call: "Call") -> None:
        """Withdraw a call, whose outcome is then an error; does nothing once it has its outcome."""


class Call(ABC):
    """A request in a model's queue. Each transport, and a route for its members, has a class of its own.

    A call gets exactly one outcome: ``answer`` or ``fail`` is called once, by the thread that computed or dropped it.
    Neither may block. Its queue decides under its lock which thread that is, and marks it ``done``.
    """

    inputs: Tensors
    """Arrays that fit the model's signature; the first axis is the batch where the model has one."""
    samples: int
    """Size of the batch axis, 1 where the model has none."""
    batch_key: Hashable
    """Only calls with equal keys share a batch (see ``validation.batch_key``)."""
    enqueued: float
    """When ``Batcher.put`` queued it, in seconds on the monotonic clock."""
    held_until: float
    """Until when the batcher may hold it back to fill a batch."""
    ready_by: float | None
    """When its batch must be computed, which is somewhat before the deadline; None without a deadline."""
    queue_ns: int
    """Nanoseconds from ``enqueued`` until its batch was taken."""
    row: int
    """The first of its samples in its batch."""

    deadline: float | None = None
    """Seconds on the monotonic clock; None for none."""
    queue: Queue | None = None
    """Where it waits, or is computed."""
    done = False
    """It has its outcome, or the thread that will give it."""
    cancelled = False

    @abstractmethod
    def answer(self, result: InferenceResult) -> None:
        """Take the outputs of this call."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Take the error with which the call ends."""

    def metadata_value(self, key: str) -> str:
        """Return the value of one of the call's metadata keys, empty where it has none: a route may go by it."""
        return ""

    def cancel(self, _call: "Call | None" = None) -> None:
        """Drop the call if it waits. Where it is not queued yet, what queues it cancels it then.

        A part of a call is a `Queue` too, in which the whole call waits; then the whole call is passed.
        """
        self.cancelled = True
        if self.queue is not None:
            self.queue.cancel(self)

    def end(self, outcome: InferenceResult | Exception) -> None:
        """Give the call its outcome. An exception of its own goes no further: it must not fail other calls."""
        self.queue = None  # a route's queue refers to the call, and a circle would keep its arrays in memory
        try:
            if isinstance(outcome, InferenceResult):
                self.answer(outcome)
            else:
                self.fail(outcome)
        except Exception:
            log.exception("a call's outcome was lost")

    @classmethod
    def answer_batch(cls, calls: "Sequence[Call]", outputs: Tensors, cost: BatchCost) -> None:
        """Give each of these calls, all of this class, its rows of the batch's outputs. Never raises."""
        for call in calls:
            call.end(call.part_of(outputs, cost))

    def part_of(self, outputs: Tensors, cost: BatchCost) -> InferenceResult:
        """Return this call's rows of the outputs of its batch, and what they cost."""
        if cost.calls > 1:
            rows = slice(self.row, self.row + self.samples)
            outputs = {name: array[rows] for name, array in outputs.items()}
        return InferenceResult(outputs, Timings(self.queue_ns, *cost[:4]))


def answer(calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
    """Give the calls of a computed batch their rows, those of each transport at once."""
    kinds = {type(call) for call in calls}
    for kind in kinds:
        kind.answer_batch(calls if len(kinds) == 1 else [call for call in calls if type(call) is kind], outputs, cost)
