"""How long a batch of n samples takes: a + b·n seconds, refitted with every batch."""

import math
import time
from collections.abc import Callable

FRESH_SECONDS = 1.0
"""What was learned longer ago says nothing: the machine may be idle by now, and somebody has to try."""

_NEWEST = 0.2  # what one batch counts for in the mean of its size
_FADING = 0.98  # what a size's weight keeps whenever another size is seen
_LEAST = 0.01  # and what it keeps for ever: seen at one size alone, a line would have no slope
_STALL = 4.0  # times what was expected: more is a pause of the machine, and counts as that much


class _Size:
    """The batches of about one size: mean samples, mean seconds, and their weight in the fit."""

    __slots__ = ("samples", "seconds", "weight")

    def __init__(self, samples: int, seconds: float) -> None:
        self.samples = float(samples)
        self.seconds = seconds
        self.weight = 0.0


class ServiceTime:
    """A weighted least-squares line through the mean times of batches of 1, 2-3, 4-7, 8-15 … samples. One thread at a
    time: the batcher's lock is around it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sizes: dict[int, _Size] = {}
        self._learned = -math.inf
        self._held = False
        self._a = 0.0
        self._b = 0.0

    def observe(self, samples: int, seconds: float) -> None:
        """A batch of so many samples took so long."""
        if self._sizes:
            seconds = min(seconds, _STALL * (self._a + self._b * samples))
        size = self._sizes.setdefault(samples.bit_length(), _Size(samples, seconds))
        for each in self._sizes.values():
            each.weight = max(_LEAST, _FADING * each.weight)
        size.weight += 1
        size.samples += _NEWEST * (samples - size.samples)
        size.seconds += _NEWEST * (seconds - size.seconds)
        self._learned = self._clock()
        self._fit()

    def predict(self, samples: int) -> float:
        """Seconds for a batch of so many samples; 0 while nothing is known, or nothing that is fresh."""
        return self._a + self._b * samples if self._held or self._is_fresh() else 0.0

    def hold(self) -> None:
        """A batch begins: what is fresh now stays so until ``release``, since somebody tries, however long it takes."""
        self._held = self._held or self._is_fresh()

    def release(self) -> None:
        """Nothing is computed any more."""
        self._held = False

    def _is_fresh(self) -> bool:
        return self._clock() - self._learned <= FRESH_SECONDS

    def _fit(self) -> None:
        sizes = self._sizes.values()
        weight = sum(size.weight for size in sizes)
        samples = sum(size.weight * size.samples for size in sizes) / weight
        seconds = sum(size.weight * size.seconds for size in sizes) / weight
        spread = sum(size.weight * (size.samples - samples) ** 2 for size in sizes)
        rise = sum(size.weight * (size.samples - samples) * (size.seconds - seconds) for size in sizes)
        # Neither a fixed cost nor a cost per sample is below 0; with one size alone all is taken for a cost per sample.
        most = seconds / samples
        self._b = min(max(0.0, rise / spread), most) if spread else most
        self._a = seconds - self._b * samples
