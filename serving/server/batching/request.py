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


class Answer(NamedTuple):
    """A request's outputs by name, and what they cost."""

    outputs: Tensors
    timings: Timings


OnDone = Callable[[Answer | ServerError], None]


class Entry:
    """One request in the queue. It is completed exactly once: answered, failed, or dropped."""

    __slots__ = ("_lock", "_on_done", "deadline", "enqueued", "held_until", "inputs", "kind", "ready_by", "samples")

    def __init__(
        self, inputs: Tensors, samples: int, on_done: OnDone, *, kind: Hashable = None, deadline: float | None = None
    ) -> None:
        """kind: only entries of equal kind share a batch. deadline: on the monotonic clock, in seconds."""
        self.inputs = inputs
        self.samples = samples
        self.kind = kind
        self.deadline = deadline
        self.enqueued = 0.0
        self.held_until = 0.0
        """Until when it may be held back to fill a batch."""
        self.ready_by = deadline
        """When the answer must be computed; None: whenever."""
        self._lock = threading.Lock()
        self._on_done: OnDone | None = on_done

    @property
    def done(self) -> bool:
        return self._on_done is None

    def complete(self, outcome: Answer | ServerError) -> bool:
        """Call the callback with the outcome, unless the entry is completed already; says whether it did.

        Never raises: a callback is its caller's own, and what fails in it is logged and hurts no neighbour.
        """
        with self._lock:
            on_done, self._on_done = self._on_done, None
        if on_done is None:
            return False
        try:
            on_done(outcome)
        except Exception:
            log.exception("a request's callback failed")
        return True
