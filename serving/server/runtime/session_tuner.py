"""Computes a batch with more threads if nothing else is being computed and measurements show a gain.

Sessions of one thread each are best for many calls in flight. For sequential calls, one session with all threads is
best. Opening this second session takes memory and time, so a separate thread opens it, and only if batches are computed
one at a time. Then both sessions compute the next such batches in turn. The session whose 90th percentile of times is
lower computes such batches for a while, until the two sessions are compared again. A median would hide that threads
often wait for a processor.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import TypeAlias

import structlog
from onnxruntime import InferenceSession

from hangtag.serving.server.runtime.inference_session import Array

log = structlog.get_logger()

_WORTH_THREADS_SECONDS = 0.0002
"""A second session is opened if a batch takes longer than this while no other batch is computed."""
_THREADS_GAIN = 0.85
"""The second session is used if the 90th percentile of its times, divided by that of the first, is at most this."""
_WARM_UPS = 8
"""The batches that each session computes before the comparison. Their times do not count, because the first batches
allocate memory, and may be slowed down while other models are loaded."""
_COMPARED = 32  # the batches that each session computes for the comparison
_SETTLED_BATCHES = 10_000
"""After this many batches, both sessions are compared again. The number doubles each time the second session is closed,
so that the server opens sessions ever more rarely."""

Compute: TypeAlias = Callable[[InferenceSession], dict[str, Array]]


class SequentialSessionTuner:
    """Chooses the session for batches that run one at a time. Such batches never overlap, so no lock is used."""

    def __init__(self, path: Path, first: InferenceSession, open_second: Callable[[], InferenceSession]) -> None:
        """Start with ``first``, the session for batches that overlap with others. ``open_second`` opens the session
        with more threads, on another thread, and may raise any exception."""
        self.session = first
        """The session that computes such a batch while ``settled`` is above 0."""
        self.settled = 0
        """How many more such batches ``session`` computes before ``compare`` is called. The caller reduces it."""
        self._path = path
        self._first = first
        self._open_second = open_second
        self._is_opening = False
        self._second: InferenceSession | None = None
        self._times: tuple[list[float], list[float]] = [], []  # the seconds of each session's batches
        self._closed_for = _SETTLED_BATCHES

    @property
    def uses_second(self) -> bool:
        """Whether the session with more threads was measured to be faster."""
        return self.session is not self._first

    def compare(self, compute: Compute) -> dict[str, Array]:
        """Compute a batch while ``settled`` is 0: the sessions take turns. If the second fails, the first is used."""
        second, (first_times, second_times) = self._second, self._times
        if second is not None and len(second_times) < len(first_times):
            return self._try_second(compute, second)
        started = time.perf_counter()
        outputs = compute(self._first)
        seconds = time.perf_counter() - started
        if second is not None:
            first_times.append(seconds)
        elif seconds >= _WORTH_THREADS_SECONDS and not self._is_opening:
            self._is_opening = True
            threading.Thread(target=self._open, name="open-session", daemon=True).start()
        return outputs

    def _open(self) -> None:
        try:
            self._second = self._open_second()
        except Exception:
            self._use_first()
        self._is_opening = False

    def _try_second(self, compute: Compute, second: InferenceSession) -> dict[str, Array]:
        first_times, second_times = self._times
        started = time.perf_counter()
        try:
            outputs = compute(second)
        except Exception:
            outputs = compute(self._first)  # raises an error if the batch is at fault
            self._use_first()
            return outputs
        second_times.append(time.perf_counter() - started)
        if len(second_times) == _WARM_UPS + _COMPARED:
            share = _percentile_90(second_times) / _percentile_90(first_times)
            if share > _THREADS_GAIN:
                self._use_first()
            else:
                if not self.uses_second:
                    log.info("a batch that runs alone uses more threads", file=str(self._path), share=round(share, 2))
                self.session, self.settled, self._times = second, _SETTLED_BATCHES, ([], [])
        return outputs

    def _use_first(self) -> None:
        self.session, self.settled, self._times = self._first, self._closed_for, ([], [])
        self._second = None
        self._closed_for *= 2


def _percentile_90(times: list[float]) -> float:
    return quantiles(times[_WARM_UPS:], n=10)[-1]
