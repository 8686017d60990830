"""Predicts how long computing a batch of n samples takes: a + b·n seconds, fitted to earlier batches."""

import math
import time
from collections.abc import Callable

FRESH_SECONDS = 1.0
"""Observations older than this many seconds are ignored. The machine may be idle by now, so the next batch is computed
without a prediction."""

_NEWEST_SHARE = 0.2  # weight of the newest batch in the running mean of its size class
_WEIGHT_DECAY = 0.98  # factor on the weight of each size class whenever a batch is observed
_MIN_WEIGHT = 0.01  # the least weight of a size class, because a line through a single class has no slope
_STALL_FACTOR = 4.0
"""A batch's time is cut to this many times the mean time of batches of its size, because the machine may have
paused."""


class _SizeClass:
    """Batches of similar size: their mean samples, their mean seconds, and their weight in the fit."""

    __slots__ = ("samples", "seconds", "weight")

    def __init__(self, samples: int, seconds: float) -> None:
        self.samples = float(samples)
        self.seconds = seconds
        self.weight = 0.0


class ServiceTime:
    """A weighted least-squares line through the mean times of batches of 1, 2-3, 4-7, 8-15 … samples.

    Not thread-safe. The batcher calls the methods under its own lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._classes: dict[int, _SizeClass] = {}
        self._last_observed = -math.inf
        self._held = False
        # False if a batch was observed since the last fit; the next prediction then refits the line first
        self._is_fitted = True
        self._a = 0.0
        self._b = 0.0

    def observe(self, samples: int, seconds: float) -> None:
        """Add a batch that was computed."""
        size_class = samples.bit_length()
        observed = self._classes.get(size_class)
        if observed is not None:
            # ``predict`` is not called, because it would refit the line for every batch
            seconds = min(seconds, _STALL_FACTOR * observed.seconds)
        else:
            if self._classes:
                seconds = min(seconds, _STALL_FACTOR * self._line(samples))
            observed = self._classes[size_class] = _SizeClass(samples, seconds)
        for each in self._classes.values():
            weight = _WEIGHT_DECAY * each.weight
            each.weight = weight if weight > _MIN_WEIGHT else _MIN_WEIGHT
        observed.weight += 1
        observed.samples += _NEWEST_SHARE * (samples - observed.samples)
        observed.seconds += _NEWEST_SHARE * (seconds - observed.seconds)
        self._last_observed = self._clock()
        self._is_fitted = False

    def predict(self, samples: int) -> float:
        """Return the expected seconds for a batch of this many samples; 0 while no fresh observation exists."""
        return self._line(samples) if self._held or self._is_fresh() else 0.0

    def hold(self) -> None:
        """Keep fresh observations valid until ``release``. The batcher calls this method when a batch starts.

        Otherwise, while a batch takes longer than FRESH_SECONDS, the batcher would admit every call.
        """
        self._held = self._held or self._is_fresh()

    def release(self) -> None:
        """Let observations age again. The batcher calls this method when no batch is being computed any more."""
        self._held = False

    def _is_fresh(self) -> bool:
        return self._clock() - self._last_observed <= FRESH_SECONDS

    def _line(self, samples: int) -> float:
        if not self._is_fitted:
            self._fit()
        return self._a + self._b * samples

    def _fit(self) -> None:
        total = sum_samples = sum_seconds = 0.0
        for each in self._classes.values():
            total += each.weight
            sum_samples += each.weight * each.samples
            sum_seconds += each.weight * each.seconds
        mean_samples, mean_seconds = sum_samples / total, sum_seconds / total
        variance = covariance = 0.0
        for each in self._classes.values():
            deviation = each.samples - mean_samples
            variance += each.weight * deviation * deviation
            covariance += each.weight * deviation * (each.seconds - mean_seconds)
        # Neither the fixed cost a nor the cost per sample b is negative. With only one batch size, all of the cost
        # counts as b.
        max_slope = mean_seconds / mean_samples
        self._b = min(max(0.0, covariance / variance), max_slope) if variance else max_slope
        self._a = mean_seconds - self._b * mean_samples
        self._is_fitted = True
