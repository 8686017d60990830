"""Predicts how long computing a batch of n samples takes: a + b·n seconds, fitted to earlier batches."""

import math
import time
from collections.abc import Callable

FRESH_SECONDS = 1.0
"""Observations older than this many seconds are ignored, because the machine may be idle by now."""

_NEWEST_SHARE = 0.2  # weight of the newest batch in the running mean of its size class
_WEIGHT_DECAY = 0.98  # whenever a batch is observed, the weight of each size class is multiplied by this
_MIN_WEIGHT = 0.01  # each size class keeps at least this weight, because fitting a line needs two classes
_STALL_FACTOR = 4.0
"""A measured time is capped at this many times the mean time of its size class, because the machine may have paused.
The first time measured for a size class is capped at this many times the predicted time, if there is a prediction."""


class ServiceTime:
    """A weighted least-squares line through mean times of batches of 1, 2-3, 4-7, 8-15 … samples. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # for each size class: its weight in the fit, mean samples and mean seconds
        self._classes: dict[int, list[float]] = {}
        self.fresh_until = -math.inf
        """Until when the observations are fresh."""
        self.held = False
        """Whether to use observations that are no longer fresh. The batcher sets this if they are fresh when an idle
        model begins a batch, which may take longer than FRESH_SECONDS. The batcher resets it when the model is idle."""
        self._fitted: tuple[float, float] | None = (0.0, 0.0)  # a and b; None if a batch was observed since the fit

    def observe(self, samples: int, seconds: float) -> None:
        size_class = samples.bit_length()
        observed = self._classes.get(size_class)
        if observed is None:
            if self._classes:
                seconds = min(seconds, _STALL_FACTOR * self._line(samples))
            observed = self._classes[size_class] = [0.0, samples, seconds]
        else:
            # ``_line`` is not called, because it would refit the line for every batch
            seconds = min(seconds, _STALL_FACTOR * observed[2])
        for each in self._classes.values():
            each[0] = max(_MIN_WEIGHT, _WEIGHT_DECAY * each[0])
        observed[0] += 1
        observed[1] += _NEWEST_SHARE * (samples - observed[1])
        observed[2] += _NEWEST_SHARE * (seconds - observed[2])
        self.fresh_until = self._clock() + FRESH_SECONDS
        self._fitted = None

    def predict(self, samples: int) -> float:
        """Return the expected seconds for a batch of this many samples; 0 while no fresh observation exists."""
        return self._line(samples) if self.held or self._clock() <= self.fresh_until else 0.0

    def _line(self, samples: int) -> float:
        a, b = self._fitted = self._fitted or self._fit()
        return a + b * samples

    def _fit(self) -> tuple[float, float]:
        classes = self._classes.values()
        total = sum_samples = sum_seconds = variance = covariance = 0.0
        for weight, samples, seconds in classes:
            total += weight
            sum_samples += weight * samples
            sum_seconds += weight * seconds
        mean_samples, mean_seconds = sum_samples / total, sum_seconds / total
        for weight, samples, seconds in classes:
            deviation = samples - mean_samples
            variance += weight * deviation * deviation
            covariance += weight * deviation * (seconds - mean_seconds)
        # The fixed cost ``a`` and the cost per sample ``b`` are at least 0. With a single size class, ``a`` is 0.
        max_slope = mean_seconds / mean_samples
        b = min(max(0.0, covariance / variance), max_slope) if variance else max_slope
        return mean_seconds - b * mean_samples, b
