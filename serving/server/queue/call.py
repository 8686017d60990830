"""The entry in a model's queue: one request of any transport, from its admission to its one outcome."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.errors import CancelledError, DeadlineError, ServerError
from hangtag.serving.server.telemetry.model_statistics import BatchCost, StageTimings, Timings

log = structlog.get_logger()

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by the names of a model's inputs or outputs."""

# A client cancels its call when the deadline has passed on the client's clock. gRPC's core sends a deadline that is
# rounded up by at most a hundredth of the time left (timeout_encoding.cc). So a cancellation this close to the deadline
# counts as an exceeded deadline. The additional millisecond allows for the time on the network.
_SLACK_SHARE = 0.01
_SLACK_SECONDS = 0.001

_SAMPLE = 1000


def memory_of(array: npt.NDArray[Any]) -> int:
    """Return how many bytes an array takes. To save time, only a sample is measured if the array has many texts."""
    if array.dtype != np.object_ or not array.size:
        return array.nbytes
    sample = array.flat[:_SAMPLE]
    return array.nbytes + sum(map(sys.getsizeof, sample)) * array.size // len(sample)


class InferenceResult(NamedTuple):
    """The outputs of one request, and how long each step took."""

    outputs: Tensors
    timings: Timings


class Queue(Protocol):
    """The place where a call waits: a model's batcher, or a route's members."""

    def cancel(self, call: "Call") -> None:
        """Cancel a call: its outcome is then an error. If the call already has an outcome, do nothing."""


class Call(ABC):
    """A request in a model's queue. Each transport and the routes have a subclass. A call gets exactly one outcome: the
    thread that computed or dropped it invokes ``answer`` or ``fail`` once. Neither method may block. Under its lock,
    the queue decides which thread gives the outcome, and marks the call ``done``."""

    inputs: Tensors
    """Arrays that match the model's signature. The first axis is the batch, if the model has a batch axis."""
    samples: int
    """Size of the batch axis; 1 if the model has no batch axis."""
    batch_key: Hashable
    """The sizes of all dynamic axes except the batch axis. Only calls with equal keys share a batch."""
    enqueued: float
    """When the call was queued, in seconds on the monotonic clock."""
    held_until: float
    """The time until which the batcher may hold the call back to fill a batch."""
    ready_by: float
    """The time by which the call's batch must be finished: the deadline or earlier; infinity without a deadline."""
    queue_ns: int
    """Nanoseconds from ``enqueued`` until the call's batch was taken."""
    row: int
    """The index of the call's first sample in its batch."""

    deadline: float | None = None
    """The deadline in seconds on the monotonic clock; None if the call has no deadline."""
    queue: Queue | None = None
    """The queue in which the call waits, or waited until its computation began."""
    done = False
    """Whether the call has an outcome, or a thread is about to give it one."""
    cancelled = False
    may_use_all_threads = True
    """Whether all threads may compute the call if nothing else is being computed. False for a shadow's copies: a
    copy that takes all threads would delay calls that arrive in the meantime."""

    def cancellation_error(self, now: float) -> ServerError:
        """Return the error for a call that its client cancels: DeadlineError at the deadline, else CancelledError."""
        if self.deadline is not None:
            slack = _SLACK_SHARE * (self.deadline - self.enqueued) + _SLACK_SECONDS
            if self.deadline - now <= slack:
                return DeadlineError("the deadline passed before there was an answer")
        return CancelledError("the caller cancelled the request")

    @abstractmethod
    def answer(self, result: InferenceResult, /) -> None: ...

    @abstractmethod
    def fail(self, error: Exception, /) -> None: ...

    def metadata_value(self, key: str) -> str:
        """Return the value of a metadata key, by which a split may choose a member, or "" if the key is missing."""
        return ""

    def cancel(self) -> None:
        """Drop a waiting call. A call that is not queued yet is cancelled by the code that queues it."""
        self.cancelled = True
        if self.queue is not None:
            self.queue.cancel(self)

    def end(self, outcome: InferenceResult | Exception) -> None:
        """Give the call its outcome. Catch any exception of the call's own code, so that other calls do not fail."""
        self.queue = None  # a route's queue refers to the call, and a reference cycle would keep its arrays in memory
        try:
            if isinstance(outcome, InferenceResult):
                self.answer(outcome)
            else:
                self.fail(outcome)
        except Exception:
            log.exception("a call's outcome was lost")

    @classmethod
    def answer_batch(cls, calls: "Sequence[Call]", outputs: Tensors, cost: BatchCost) -> None:
        """Give calls of this class their rows of the batch's outputs. Never raises an error."""
        for call in calls:
            call.end(call.part_of(outputs, cost))

    def part_of(self, outputs: Tensors, cost: BatchCost) -> InferenceResult:
        """Return this call's rows of its batch's outputs, and the timings of the call's steps."""
        if cost.calls > 1:
            part = slice(self.row, self.row + self.samples)
            outputs = {name: array[part] for name, array in outputs.items()}
        return InferenceResult(outputs, self.timings_of(cost))

    def timings_of(self, cost: BatchCost) -> Timings:
        stages: tuple[StageTimings, ...] = ()
        if cost.member:
            rows = tuple(range(self.samples))
            stages = (StageTimings(cost.member, rows, self.queue_ns, cost.compute_ns, cost.batch_size),)
        return Timings(self.queue_ns, *cost[:4], stages)


def answer(calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
    """Give each call of a computed batch its rows of ``outputs``. All calls of one class are answered together."""
    kinds: set[type[Call]] = set(map(type, calls))
    for kind in kinds:
        kind.answer_batch(calls if len(kinds) == 1 else [call for call in calls if type(call) is kind], outputs, cost)
