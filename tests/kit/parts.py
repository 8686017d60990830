"""Test doubles for a clock and a caller, and short ways to build queues and their requests."""

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, OnComplete, QueuedRequest
from hangtag.serving.server.errors import ServerError


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """Keeps each outcome that a request's callback gets."""

    def __init__(self) -> None:
        self.outcomes: list[InferenceResult | ServerError] = []

    def __call__(self, outcome: InferenceResult | ServerError) -> None:
        self.outcomes.append(outcome)

    @property
    def outcome(self) -> InferenceResult | ServerError:
        (only,) = self.outcomes
        return only

    @property
    def answer(self) -> InferenceResult:
        assert isinstance(self.outcome, InferenceResult), self.outcome
        return self.outcome


def new_request(
    samples: int = 1, on_complete: OnComplete | None = None, *, batch_key: str = "", deadline: float | None = None
) -> QueuedRequest:
    """A request without inputs, for the batcher alone."""
    return QueuedRequest({}, samples, on_complete or Caller(), batch_key=batch_key, deadline=deadline)


def batcher(
    clock: Clock, *, size: int = 4, queue: int = 100, delay: float = 0.0, instances: int = 1_000_000
) -> Batcher:
    """By default there are so many instances that one is always free."""
    return Batcher(max_batch_size=size, max_queue_size=queue, instances=instances, max_queue_delay=delay, clock=clock)


def put(queue: Batcher, *requests: QueuedRequest) -> list[QueuedRequest]:
    for one in requests:
        queue.put(one)
    return list(requests)
