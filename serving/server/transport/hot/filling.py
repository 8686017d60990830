"""How long a leader lets its batch grow while another thread computes: not once waiting has nothing more to bring."""

from collections.abc import Collection
from weakref import WeakKeyDictionary

from hangtag.serving.server.batching.batcher import Batcher

# From a quarter of max_batch_size on, a sample in a batch costs about what it costs in a full one, so a processor that
# waits is only lost (docs/performance.md).
_ENOUGH_SHARE = 4
# Nor does it pay for a batch that takes so long itself: what a larger one saves is a few tenths of a millisecond.
_ENOUGH_SECONDS = 0.0015
_REMEMBERED = 64  # looks at a queue, and as many before them


class _Peak:
    """The largest of the last 64 to 128 numbers that it was shown."""

    __slots__ = ("_before", "_count", "_lately")

    def __init__(self) -> None:
        self._before = self._lately = self._count = 0

    def of(self, number: int) -> int:
        """The largest before this number, which is remembered from now on."""
        peak = max(self._before, self._lately)
        self._lately = max(self._lately, number)
        self._count += 1
        if self._count == _REMEMBERED:
            self._before, self._lately, self._count = self._lately, 0, 0
        return peak


class Filling:
    """Remembers for each queue how many samples were in work at once. For the thread that polls."""

    def __init__(self) -> None:
        self._peaks: WeakKeyDictionary[Batcher, _Peak] = WeakKeyDictionary()

    def is_worth_waiting(self, batchers: Collection[Batcher]) -> bool:
        """None of these queues holds enough for a batch, and each had more samples in work lately than now.

        Callers who wait for their answers send no more until these come, so when as many are in work as there ever
        were, everybody is here.
        """
        more_may_come = [self._has_had_more(batcher) for batcher in batchers]  # of all: they are remembered
        return all(more_may_come) and not any(self._is_enough(batcher) for batcher in batchers)

    @staticmethod
    def _is_enough(batcher: Batcher) -> bool:
        samples = batcher.queued_samples
        return samples * _ENOUGH_SHARE >= batcher.max_batch_size or batcher.expected_seconds(samples) >= _ENOUGH_SECONDS

    def _has_had_more(self, batcher: Batcher) -> bool:
        here = batcher.unfinished_samples
        return here < self._peaks.setdefault(batcher, _Peak()).of(here)
