"""Measure the times of contenders that take turns on one thread: files in bare ONNX Runtime, and networks in PyTorch.

The contenders take turns of several batches, so that other load on the machine affects all contenders. The figures are
medians. The first batch of a turn does not count: it can take twice as long as the next batches, because the other
contenders have displaced the weights from the processor's caches. A busy server has no such batches. Each contender has
one thread, like an instance of the server. With several threads, a contender's threads would spin for about a batch's
time after its turn, on processors that the next contender needs.
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
"""For each batch size, no round begins after this time, unless there are fewer than _LEAST_ROUNDS."""
_TURN_MS = 5.0
"""A turn ends when the sum of its measured batches' times reaches this value."""
FILE, FP32 = "file", "fp32 file"
Contender = Callable[[Any], object]
"""Answers a batch."""


@dataclass(frozen=True)
class Speed:
    """The time of a batch, by batch size and contender."""

    milliseconds: Mapping[int, Mapping[str, float]]
    """Median milliseconds by batch size and contender."""

    def ratio(self, contender: str, batch_size: int) -> float | None:
        """Return the contender's time divided by the file's time; None if the contender was not measured."""
        times = self.milliseconds[batch_size]
        return times[contender] / times[FILE] if contender in times else None


def interleaved(
    contenders: Mapping[str, Contender], batch: Any, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Run the contenders in turns, and return the median milliseconds of each contender.

    Args:
        contenders: The contenders by name.
        batch: The batch that each contender answers.
        clock: A clock in seconds.
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
