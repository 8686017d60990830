"""Time contenders that take turns on one thread: files in bare ONNX Runtime, and networks in PyTorch.

The contenders take turns of several batches, so that other load on the machine affects all contenders. The figures are
medians. The first batch of a turn does not count. The first batch must reload weights that the other contenders have
displaced from the processor's caches, so it can take twice as long as the next batches; a busy server has no such
batches. Each contender has one thread, like an instance of the server. Several threads would continue to spin after the
contender's turn, for about as long as a batch takes, on processors that the next contender needs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH_SIZES = (1, 64)
THREADS = 1
_LEAST_ROUNDS, _MOST_ROUNDS = 7, 200
_SECONDS = 2.0
"""For each batch size, no round begins after this time, except to reach _LEAST_ROUNDS."""
_TURN_MS = 5.0
"""A turn ends when its measured batches have together taken this long."""
FILE, FP32 = "file", "fp32 file"
Contender = Callable[[Any], object]
"""Answers a batch."""


@dataclass(frozen=True)
class Speed:
    """The time that a batch takes, by batch size and contender."""

    milliseconds: Mapping[int, Mapping[str, float]]
    """Batch size -> contender -> median milliseconds."""

    def ratio(self, contender: str, batch_size: int) -> float | None:
        """Return how many times as fast as a contender the file is; None if the contender was not timed."""
        times = self.milliseconds[batch_size]
        return times[contender] / times[FILE] if contender in times else None


def interleaved(
    contenders: Mapping[str, Contender], batch: Any, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Let the contenders take turns, and return each contender's median milliseconds.

    Args:
        contenders: The contenders by name.
        batch: The batch that each contender answers.
        clock: Returns seconds since an arbitrary time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for rounds in range(_MOST_ROUNDS):
        if rounds >= _LEAST_ROUNDS and clock() - begin > _SECONDS:
            break
        for name, answer in contenders.items():
            times[name] += _turn(answer, batch, clock)
    return {name: float(np.median(milliseconds)) for name, milliseconds in times.items()}


def _turn(answer: Contender, batch: Any, clock: Callable[[], float]) -> list[float]:
    """Return the milliseconds of each batch of a turn, without the first batch."""
    answer(batch)
    milliseconds: list[float] = []
    while sum(milliseconds) < _TURN_MS:
        start = clock()
        answer(batch)
        milliseconds.append((clock() - start) * 1e3)
    return milliseconds
