"""Which requests are computed together: a thread-safe queue that knows neither gRPC nor asyncio nor ONNX Runtime.

The policy is to fill while busy: whoever is free takes what has gathered meanwhile, up to max_batch_size samples. So a
call on its own waits for nobody, and under load batches grow by themselves. An optional delay holds the oldest back, no
longer than the deadlines in the queue allow.

An entry (entry.py) completes from whichever thread computed it. Any thread may take a batch, be it the
model's own or one of a transport that computes where it polls, but no more batches are out at once than the model has
instances. Whoever took one calls ``finish``, and then asks for the next: nobody else is woken for it.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from hangtag.serving.server.batching.request import QueuedRequest
from hangtag.serving.server.batching.service_time import ServiceTime
from hangtag.serving.server.errors import CancelledError, DeadlineError, QueueFullError, ServerError, UnavailableError

_LATE = "the deadline passed while the request was waiting, or would before its answer; nothing was computed"

# A caller whose time is over cancels by its own clock, and gRPC's core tells the server of a deadline rounded up by a
# hundredth of the time at most (timeout_encoding.cc). And a millisecond for what is in between.
_DEADLINE_SLACK = 0.01
_DEADLINE_SLACK_SECONDS = 0.001

# While requests have to wait, what is late is late by time that the queue does not see: until a call is read, and until
# its answer is. So whoever waits is wanted to be ready when this share of its time is still left. Without, a queue that
# is as long as the deadline answers nearly everybody just too late (docs/performance.md).
_UNSEEN_SHARE = 0.2


class Batcher:
    """The queue of one model."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_size: int,
        instances: int,
        max_queue_delay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_batch_size counts samples, max_queue_size entries, instances batches; max_queue_delay is in seconds."""
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.instances = instances
        self.max_queue_delay = max_queue_delay
        self._clock = clock
        self._queue: deque[QueuedRequest] = deque()
        self._waiting = 0  # entries of the queue that are not completed yet
        self._samples = 0  # of the queue, completed ones included
        self._computing: dict[int, tuple[float, int]] = {}  # batches taken and not finished: since when, and samples
        self._service_time = ServiceTime(clock)
        self._closed = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __len__(self) -> int:
        return self._waiting

    @property
    def computing(self) -> int:
        """Batches that were taken and are not finished."""
        return len(self._computing)

    @property
    def queued_samples(self) -> int:
        """Samples that wait."""
        return self._samples

    @property
    def unfinished_samples(self) -> int:
        """Samples that wait or are computed."""
        with self._lock:
            return self._samples + sum(samples for _, samples in self._computing.values())

    @property
    def full(self) -> bool:
        """A whole batch waits and an instance is free, so there is nothing to wait for."""
        return self._samples >= self.max_batch_size and not self._busy

    def expected_seconds(self, samples: int) -> float:
        """How long a batch of so many samples takes to compute; 0 while that is not known."""
        with self._lock:
            return self._service_time.predict(samples)

    def would_wait(self, samples: int) -> bool:
        """Whether a request of so many samples would not be in the next batch, or that batch not start at once."""
        return self._busy or bool(self.max_queue_delay) or self._samples + samples > self.max_batch_size

    def put(self, entry: QueuedRequest, *, wake: bool = True) -> None:
        """Queue an entry. Raises QueueFullError, DeadlineError when by the measured service time it cannot be answered
        in time, or, once closed, UnavailableError: the callback is not called then.

        wake: tell a thread that waits in ``take``; not needed by one that will itself take the entry.
        """
        with self._lock:
            now = self._clock()
            self._require_place(entry, now)
            entry.enqueued = now
            entry.held_until = now + self._delay(entry, now)
            self._queue.append(entry)
            self._waiting += 1
            self._samples += entry.samples
            if wake and not self._busy:  # else the first instance that finishes takes it
                self._changed.notify()

    def check(self, entry: QueuedRequest) -> None:
        """Raise what ``put`` would raise now: for who would have to prepare something for an entry that waits."""
        with self._lock:
            self._require_place(entry, self._clock())

    def cancel(self, entry: QueuedRequest) -> None:
        """Take back an entry that still waits; it costs no computation.

        It completes with CancelledError, or with DeadlineError when its caller's time is over: then the caller cancels.
        """
        if entry.complete(self._why_cancelled(entry)):
            with self._lock:
                if entry in self._queue:  # else an instance has it, and finds it completed
                    self._queue.remove(entry)
                    self._waiting -= 1
                    self._samples -= entry.samples

    def take(self, *, wait: bool = True) -> list[QueuedRequest]:
        """The next batch: entries of one batch_key, in order, of max_batch_size samples at most.

        Entries that were cancelled or whose deadline has passed are completed and left out before anything is computed.
        With ``wait`` the call blocks until there is a batch, and returns an empty list only when the queue is closed
        and empty; without, an empty list means that nothing is due now, or that every instance is busy. After a batch
        comes ``finish``.
        """
        while True:
            late: list[QueuedRequest] = []
            with self._lock:
                while wait and not self._due() and not (self._closed and not self._queue):
                    self._changed.wait(self._time_to_due())
                batch = self._gather(late) if self._due() else []
                if batch:
                    self._service_time.hold()
                    self._computing[id(batch)] = self._clock(), sum(entry.samples for entry in batch)
                if wait and self._queue and not self._busy:
                    self._changed.notify()  # what is left is another instance's
                finished = not wait or (self._closed and not self._queue)
            for entry in late:  # outside the lock: callbacks are the transport's
                entry.complete(DeadlineError(_LATE))
            if batch or finished:
                return batch

    def finish(self, batch: list[QueuedRequest], seconds: float | None = None) -> None:
        """A batch that was taken is computed: its instance is free. seconds: how long it took, unless it failed."""
        with self._lock:
            _, samples = self._computing.pop(id(batch))
            if seconds is not None:
                self._service_time.observe(samples, seconds)
            if not self._computing:
                self._service_time.release()
            if self._closed:
                self._changed.notify_all()
            elif self._queue and not self._due():
                self._changed.notify()  # whoever came while all were busy woke nobody: somebody set the alarm

    def wake(self) -> None:
        """Tell a thread that waits in ``take`` of entries that were put without."""
        with self._lock:
            self._changed.notify()

    def time_to_due(self) -> float | None:
        """Seconds until a batch may be taken; None while nothing waits, or nothing may before ``finish``."""
        with self._lock:
            if not self._queue or self._busy:
                return None
            return 0.0 if self._due() else self._time_to_due()

    def close(self) -> None:
        """Refuse new entries. What is queued can still be taken; then ``take`` returns an empty list."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def _why_cancelled(self, entry: QueuedRequest) -> ServerError:
        if entry.deadline is not None:
            now = self._clock()
            if entry.deadline - now <= _DEADLINE_SLACK * (entry.deadline - entry.enqueued) + _DEADLINE_SLACK_SECONDS:
                return DeadlineError("the deadline passed before there was an answer")
        return CancelledError("the caller cancelled the request")

    @property
    def _busy(self) -> bool:
        return len(self._computing) >= self.instances

    def _require_place(self, entry: QueuedRequest, now: float) -> None:
        if self._closed:
            raise UnavailableError("the server is stopping and takes no new requests; try another replica")
        if self._waiting >= self.max_queue_size:
            raise QueueFullError(
                f"{self._waiting} requests are waiting, as many as the queue holds; "
                "try again later with a back-off, or raise --max-queue-size"
            )
        if entry.deadline is not None:
            self._admit(entry, entry.deadline - now, self._expected(entry, now), now)

    def _admit(self, entry: QueuedRequest, seconds: float, expected: float, now: float) -> None:
        """Refuse an entry that has so many seconds left, unless it is expected to be computed in time."""
        share = 1 - _UNSEEN_SHARE if self._busy else 1.0
        entry.ready_by = now + share * seconds
        if entry.ready_by < now + expected:
            raise DeadlineError(
                f"an answer needs about {expected / share * 1e3:.1f} ms now and the deadline is in "
                f"{seconds * 1e3:.1f} ms; nothing was started. Allow more time, or try again later"
            )

    def _expected(self, entry: QueuedRequest, now: float) -> float:
        """Seconds until an entry that came now would be computed; 0 while nothing is known."""
        predict = self._service_time.predict
        whole, part = divmod(self._samples, self.max_batch_size)
        wait = whole * predict(self.max_batch_size) / self.instances
        if self._busy:
            wait += min(max(0.0, since + predict(samples) - now) for since, samples in self._computing.values())
        # Where a whole batch waits already, this entry's will be whole too, by those who come after it.
        own = self.max_batch_size if whole else min(part + entry.samples, self.max_batch_size)
        return wait + predict(own)

    def _delay(self, entry: QueuedRequest, now: float) -> float:
        """Seconds that an entry may be held back to fill a batch: half of what its deadline leaves to spare at most."""
        if not self.max_queue_delay or entry.ready_by is None:
            return self.max_queue_delay
        spare = entry.ready_by - now - self._service_time.predict(self.max_batch_size)
        return min(self.max_queue_delay, max(0.0, spare / 2))

    def _due(self) -> bool:
        if not self._queue or self._busy:
            return False
        if self._closed or not self.max_queue_delay or self._samples >= self.max_batch_size:
            return True
        return self._clock() >= self._held_until()

    def _time_to_due(self) -> float | None:
        if not self._queue or self._busy:
            return None
        return max(0.0, self._held_until() - self._clock())

    def _held_until(self) -> float:
        return min(entry.held_until for entry in self._queue)  # fewer than make a batch

    def _gather(self, late: list[QueuedRequest]) -> list[QueuedRequest]:
        now = self._clock()
        predict = self._service_time.predict
        batch: list[QueuedRequest] = []
        samples = 0
        earliest = math.inf  # by which the batch must be computed for all of it to be in time
        passed_over: list[QueuedRequest] = []
        while self._queue and samples < self.max_batch_size:
            entry = self._queue.popleft()
            self._samples -= entry.samples
            ready_by = math.inf if entry.ready_by is None else entry.ready_by
            done_at = now + predict(samples + entry.samples)
            if entry.done:
                self._waiting -= 1
            elif ready_by <= done_at:
                self._waiting -= 1
                late.append(entry)
            elif batch and entry.batch_key != batch[0].batch_key:
                passed_over.append(entry)
                self._samples += entry.samples
            elif batch and (samples + entry.samples > self.max_batch_size or earliest < done_at):
                self._queue.appendleft(entry)
                self._samples += entry.samples
                break
            else:
                self._waiting -= 1
                batch.append(entry)
                samples += entry.samples
                earliest = min(earliest, ready_by)
        self._queue.extendleft(reversed(passed_over))
        return batch
