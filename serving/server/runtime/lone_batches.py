"""Batches that are computed while nothing else is: with more threads, where that has shown to be faster.

Sessions of one thread each are best for many calls in flight, and all threads together for one call after another. A
second session takes memory and time to open. So it is opened only when lone batches come, on a thread of its own.
Then both sessions compute each of the next few lone batches, and the faster one computes all later ones.
"""

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import structlog
from onnxruntime import InferenceSession

from hangtag.serving.server.runtime.arrays import Array

log = structlog.get_logger()

# A second session is opened where a lone batch takes longer than this, and kept where it takes less than this share of
# the first one's time, by the median of so many batches. The batches before them pay for first allocations.
_WORTH_THREADS_SECONDS = 0.0002
_THREADS_GAIN = 0.85
_WARM_UPS = 2
_COMPARED = 5

Compute: TypeAlias = Callable[[InferenceSession], dict[str, Array]]
"""Computes one batch with a session."""


class LoneBatches:
    """Chooses the session for each lone batch. Not thread-safe: a batch is alone while nothing else is computed."""

    def __init__(
        self,
        path: Path,
        session: InferenceSession,
        threads: int,
        open_session: Callable[[int], InferenceSession],
        more_threads: int,
    ) -> None:
        """Start with the session that computes all other batches too.

        Args:
            path: The model's file, for the log.
            session: The session that is open.
            threads: Its threads.
            open_session: Opens one with this number of threads; called on another thread. It may raise any exception.
            more_threads: Threads of the second session.
        """
        self.threads = threads
        """Threads of the session that computes lone batches."""
        self.session = session
        """Computes lone batches, as far as is known."""
        self.is_decided = False
        """Whether that is known for good."""
        self._path = path
        self._open_session = open_session
        self._more_threads = more_threads
        self._opening: threading.Thread | None = None
        self._second: InferenceSession | None = None
        self._shares: list[float] = []

    def compare(self, compute: Compute) -> dict[str, Array]:
        """Compute a batch while it is not decided, with both sessions where there are two. Raises what that does."""
        started = time.perf_counter()
        outputs = compute(self.session)
        self._consider(compute, time.perf_counter() - started)
        return outputs

    def _consider(self, compute: Compute, seconds: float) -> None:
        if self._opening is None:
            if seconds >= _WORTH_THREADS_SECONDS:
                self._opening = threading.Thread(target=self._open, name="open-session", daemon=True)
                self._opening.start()
        elif self._second is not None:
            started = time.perf_counter()
            try:
                compute(self._second)
            except Exception as error:
                self._keep_first(f"it fails on a batch that the first one computes: {error}")
                return
            self._shares.append((time.perf_counter() - started) / seconds)
            if len(self._shares) == _WARM_UPS + _COMPARED:
                self._decide(statistics.median(self._shares[_WARM_UPS:]))

    def _open(self) -> None:
        try:
            self._second = self._open_session(self._more_threads)
        except Exception as error:
            self._keep_first(str(error))

    def _decide(self, share: float) -> None:
        if share > _THREADS_GAIN:
            self._keep_first(f"it takes {share:.2f} of the first one's time")
            return
        assert self._second is not None
        self.session, self.threads, self.is_decided = self._second, self._more_threads, True
        log.info("lone batches use more threads", file=str(self._path), threads=self.threads, share=round(share, 2))

    def _keep_first(self, why: str) -> None:
        self._second, self.is_decided = None, True
        log.debug("lone batches use no second session", file=str(self._path), reason=why)
