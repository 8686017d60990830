"""A fake clock, a fake call, and functions that create queues and calls."""

from hangtag.serving.server.queue.batcher import Batcher
from hangtag.serving.server.queue.call import Call, InferenceResult


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class KeptCall(Call):
    """A call without inputs, for tests of the batcher. It records every outcome."""

    def __init__(self, samples: int = 1, *, batch_key: str = "", deadline: float | None = None) -> None:
        self.inputs = {}
        self.samples = samples
        self.batch_key = batch_key
        self.deadline = deadline
        self.outcomes: list[InferenceResult | Exception] = []

    def answer(self, result: InferenceResult) -> None:
        self.outcomes.append(result)

    def fail(self, error: Exception) -> None:
        self.outcomes.append(error)

    @property
    def outcome(self) -> InferenceResult | Exception:
        (only,) = self.outcomes
        return only


def batcher(
    clock: Clock,
    *,
    size: int = 4,
    queue: int = 100,
    delay: float = 0.0,
    instances: int = 1_000_000,
    divided: bool = False,
) -> Batcher:
    """A queue of calls. By default, the model has so many instances that one is always free."""
    return Batcher(
        max_batch_size=size,
        max_queue_size=queue,
        instances=instances,
        max_queue_delay=delay,
        divided=divided,
        clock=clock,
    )


def put(queue: Batcher, *calls: KeptCall) -> list[KeptCall]:
    for one in calls:
        queue.put(one)
    return list(calls)
