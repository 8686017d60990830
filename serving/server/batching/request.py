"""One request on its way through the queue: what it asks, what it gets, and what that cost.

An entry completes through its own callback, from whichever thread computed it.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import structlog

from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.model_statistics import Timings

log = structlog.get_logger()

Tensors = Mapping[str, npt.NDArray[Any]]


class InferenceResult(NamedTuple):
    """A request's outputs by name, and what they cost."""

    outputs: Tensors
    timings: Timings


OnComplete = Callable[[InferenceResult | ServerError], None]


class QueuedRequest:
    """One request in the queue. It is completed exactly once: answered, failed, or dropped."""

    __slots__ = (
        "_lock",
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
        """batch_key: only entries of equal batch_key share a batch. deadline: on the monotonic clock, in seconds."""
        self.inputs = inputs
        self.samples = samples
        self.batch_key = batch_key
        self.deadline = deadline
        self.enqueued = 0.0
        self.held_until = 0.0
        """Until when it may be held back to fill a batch."""
        self.ready_by = deadline
        """When the answer must be computed; None: whenever."""
        self._lock = threading.Lock()
        self._on_complete: OnComplete | None = on_complete

    @property
    def done(self) -> bool:
        return self._on_complete is None

    def complete(self, outcome: InferenceResult | ServerError) -> bool:
        """Call the callback with the outcome, unless the entry is completed already; says whether it did.

        Never raises: a callback is its caller's own, and what fails in it is logged and hurts no neighbour.
        """
        with self._lock:
            on_complete, self._on_complete = self._on_complete, None
        if on_complete is None:
            return False
        try:
            on_complete(outcome)
        except Exception:
            log.exception("a request's callback failed")
        return True
