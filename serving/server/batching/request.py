"""One request on its way through a model's queue, and the result that its callback receives."""

import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.model_statistics import Timings

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


OnComplete = Callable[[InferenceResult | ServerError], None]


class QueuedRequest:
    """A request in the queue. It completes exactly once: with a result, with an error, or dropped before computation.

    The thread that computes or drops the request runs its callback, so a callback must not block.
    """

    __slots__ = (
        "_on_complete",
        "batch_key",
        "deadline",
        "enqueued",
        "held_until",
        "inputs",
        "ready_by",
        "samples",
    )

    def __init__(
        self,
        inputs: Tensors,
        samples: int,
        on_complete: OnComplete,
        *,
        batch_key: Hashable = None,
        deadline: float | None = None,
    ) -> None:
        """Describe a request; ``Batcher.put`` queues it.

        Args:
            inputs: Arrays that fit the model's signature; the first axis is the batch where the model has one.
            samples: Size of the batch axis, 1 where the model has none.
            on_complete: Receives the result or the error, from another thread.
            batch_key: Only requests with equal keys share a batch (see ``validation.batch_key``).
            deadline: Seconds on the monotonic clock; None for no deadline.
        """
        self.inputs = inputs
        self.samples = samples
        self.batch_key = batch_key
        self.deadline = deadline
        self.enqueued = 0.0
        """When ``Batcher.put`` queued it, in seconds on the monotonic clock."""
        self.held_until = 0.0
        """Until when the batcher may hold it back to fill a batch."""
        self.ready_by = deadline
        """When its batch must be computed, which is somewhat before the deadline; None without a deadline."""
        self._on_complete = [on_complete]  # a list, because its pop is atomic; empty once the callback has run

    @property
    def completed(self) -> bool:
        """Whether the request has its outcome: a result, an error, or a cancellation."""
        return not self._on_complete

    def complete(self, outcome: InferenceResult | ServerError) -> bool:
        """Run the callback with the outcome, unless the request is completed already; return whether it ran.

        An exception in the callback is logged and goes no further: it must not fail other requests of the batch.
        """
        try:
            on_complete = self._on_complete.pop()
        except IndexError:
            return False
        try:
            on_complete(outcome)
        except Exception:
            log.exception("a request's callback failed")
        return True
