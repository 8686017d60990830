"""The batching policy of one model: when its queued requests are computed, and which of them together.

Threads put requests in and take batches out; the batcher knows neither gRPC nor ONNX Runtime. The policy:

1. Fill while busy. As soon as an instance (of which the model has ``instances``) is free and a request waits, a batch
   may be taken. Requests that arrive while every instance computes gather, and are the next batch. So a lone request
   waits for no other, and batches grow with the load, without a timer.
2. Size and order. A batch has at most max_batch_size samples, the oldest requests first. Only requests with equal batch
   keys (same shapes beyond the batch axis) share one; others are passed over and keep their places. The first request
   that does not fit ends the batch, so that no later and smaller one overtakes it.
3. Delay, off by default. With max_queue_delay, a batch that is not full is held back until one of its requests has
   waited that long, or for half of the time that its deadline leaves to spare.
4. Admission. ``put`` refuses at once: after ``close`` (UnavailableError), when max_queue_size requests wait
   (QueueFullError), and when by the measured service time the answer would miss its deadline (DeadlineError).
5. Dropping. ``take`` leaves out requests that were cancelled or can no longer be computed in time, so that no
   computation is in vain. A request that would make the batch too long for another one's deadline waits for the next.
6. Hand-over. The thread that took a batch calls ``finish``, and takes the next one itself; no other thread is woken.

A batch that fails is ``ServedModel.execute``'s matter: it computes each request once more, alone.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from hangtag.serving.server.batching.deadlines import TOO_LATE, cancellation_error, hold_seconds, require_time
from hangtag.serving.server.batching.request import QueuedRequest
from hangtag.serving.server.batching.service_time import ServiceTime
from hangtag.serving.server.errors import STOPPING, DeadlineError, QueueFullError, UnavailableError


class Batcher:
    """The queue of one model. Thread-safe."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_size: int,
        instances: int,
        max_queue_delay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        condition: Callable[[threading.Lock], threading.Condition] = threading.Condition,
    ) -> None:
        """Create an empty queue.

        Args:
            max_batch_size: Most samples in one batch.
            max_queue_size: Most requests that wait.
            instances: Most batches that are computed at the same time.
            max_queue_delay: Seconds that a request may be held back to fill a batch.
            clock: Monotonic clock in seconds.
            condition: Makes what waiting threads are woken by. A test gives its own, to see which it wakes.
        """
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.instances = instances
        self.max_queue_delay = max_queue_delay
        self._clock = clock
        self._queue: deque[QueuedRequest] = deque()
        self._waiting = 0  # requests of the queue that are not completed yet
        self._samples = 0  # samples of the queue, completed requests included
        self._computing: dict[int, tuple[float, int]] = {}  # id of a batch not finished -> when taken, its samples
        self._service_time = ServiceTime(clock)
        self._closed = False
        self._lock = threading.Lock()
        self._changed = condition(self._lock)

    def __len__(self) -> int:
        return self._waiting

    @property
    def computing(self) -> int:
        """Number of batches that were taken and are not finished."""
        return len(self._computing)

    @property
    def queued_samples(self) -> int:
        """Number of samples of the requests in the queue."""
        return self._samples

    @property
    def full_batch_seconds(self) -> float:
        """Seconds that a batch of max_batch_size samples is expected to take; 0 while the service time is not known."""
        with self._lock:
            return self._service_time.predict(self.max_batch_size)

    def expected_seconds(self, samples: int) -> float:
        """Seconds until a request of so many samples that came now would be computed; 0 as above."""
        with self._lock:
            return self._expected(samples, self._clock())

    def require_place(self) -> None:
        """Raise QueueFullError while max_queue_size requests wait. ``put`` does so too; a caller that asks first need
        not decode what would be refused."""
        if self._waiting >= self.max_queue_size:
            raise QueueFullError(
                f"{self._waiting} requests are waiting, as many as the queue holds; "
                "try again later with a back-off, or raise --max-queue-size"
            )

    def put(self, request: QueuedRequest, *, wake: bool = True) -> None:
        """Queue a request; when this raises, the request's callback is not called.

        Args:
            request: Not queued before.
            wake: Wake a thread that waits in ``take``. A caller that itself takes the next batch passes False.

        Raises:
            QueueFullError: max_queue_size requests wait.
            DeadlineError: By the measured service time, the request cannot be computed before its deadline.
            UnavailableError: The batcher is closed.
        """
        with self._lock:
            now = self._clock()
            self._require_place(request, now)
            request.enqueued = now
            request.held_until = now
            if self.max_queue_delay:
                full_batch_seconds = self._service_time.predict(self.max_batch_size)
                request.held_until += hold_seconds(request, self.max_queue_delay, full_batch_seconds, now)
            self._queue.append(request)
            self._waiting += 1
            self._samples += request.samples
            if wake and not self._busy:  # else the first instance that finishes takes it
                self._changed.notify()

    def cancel(self, request: QueuedRequest) -> None:
        """Withdraw a request. While it waits, it is never computed; while it is computed, its result is dropped.

        It completes with CancelledError, or with DeadlineError at its deadline, since clients cancel when it passes.
        """
        if request.complete(cancellation_error(request, self._clock())):
            with self._lock:
                if request in self._queue:  # else an instance computes it, and its result will be dropped
                    self._queue.remove(request)
                    self._waiting -= 1
                    self._samples -= request.samples

    def take(self, *, wait: bool = True) -> list[QueuedRequest]:
        """Take the next batch. The caller computes it and then calls ``finish``.

        Requests that were cancelled, or can no longer be computed in time, are completed and left out.

        Args:
            wait: Block until there is a batch. Then the list is empty only if the batcher is closed and its queue is
                empty. Without waiting, the list is also empty if no batch is due, or every instance is busy.

        Returns:
            Requests with one batch key, the oldest first, of at most max_batch_size samples together.
        """
        while True:
            late: list[QueuedRequest] = []
            with self._lock:
                while wait and not self._due() and not (self._closed and not self._queue):
                    self._changed.wait(self._time_to_due())
                batch, samples = self._gather(late) if self._due() else ([], 0)
                if batch:
                    self._service_time.hold()
                    self._computing[id(batch)] = self._clock(), samples
                if wait and self._queue and not self._busy:
                    self._changed.notify()  # another instance is free to take what is left
                ended = not wait or (self._closed and not self._queue)
            for request in late:  # outside the lock: callbacks are code of the transport
                request.complete(DeadlineError(TOO_LATE))
            if batch or ended:
                return batch

    def finish(self, batch: list[QueuedRequest], seconds: float | None = None) -> None:
        """Free the instance that computed this batch.

        Args:
            batch: A list that ``take`` returned, the same object.
            seconds: How long the batch took to compute, for the service time; None if it failed.
        """
        with self._lock:
            _, samples = self._computing.pop(id(batch))
            if seconds is not None:
                self._service_time.observe(samples, seconds)
            if not self._computing:
                self._service_time.release()
            if self._closed:
                self._changed.notify_all()
            elif self._queue and not self._due():
                # Requests that came while all instances were busy woke no thread: one must wait for the delay to end.
                self._changed.notify()

    def wake(self) -> None:
        """Wake a thread that waits in ``take``, for requests that were put with ``wake=False``."""
        with self._lock:
            self._changed.notify()

    def time_to_due(self) -> float | None:
        """Return the seconds until a batch may be taken; None if nothing waits, or every instance is busy."""
        with self._lock:
            if not self._queue or self._busy:
                return None
            return 0.0 if self._due() else self._time_to_due()

    def close(self) -> None:
        """Refuse new requests. What is queued can still be taken; then ``take`` returns an empty list."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    @property
    def _busy(self) -> bool:
        return len(self._computing) >= self.instances

    def _require_place(self, request: QueuedRequest, now: float) -> None:
        if self._closed:
            raise UnavailableError(STOPPING)
        self.require_place()
        if request.deadline is not None:
            require_time(request, self._expected(request.samples, now), busy=self._busy, now=now)

    def _expected(self, new_samples: int, now: float) -> float:
        predict = self._service_time.predict
        whole_batches, rest = divmod(self._samples, self.max_batch_size)
        wait = whole_batches * predict(self.max_batch_size) / self.instances
        if self._busy:
            wait += min(max(0.0, since + predict(samples) - now) for since, samples in self._computing.values())
        # Where a whole batch waits already, requests that come later will fill this one's batch too.
        own = self.max_batch_size if whole_batches else min(rest + new_samples, self.max_batch_size)
        return wait + predict(own)

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
        return min(request.held_until for request in self._queue)  # short: called only with less than a batch queued

    def _gather(self, late: list[QueuedRequest]) -> tuple[list[QueuedRequest], int]:
        """Remove the next batch from the queue; append to ``late`` what can no longer be computed in time.

        Returns:
            The batch, and its samples.
        """
        now = self._clock()
        predict = self._service_time.predict
        batch: list[QueuedRequest] = []
        samples = 0
        earliest = math.inf  # the first ready_by in the batch: computing must end before it
        passed_over: list[QueuedRequest] = []
        while self._queue and samples < self.max_batch_size:
            request = self._queue.popleft()
            self._samples -= request.samples
            ready_by = math.inf if request.ready_by is None else request.ready_by
            done_at = now
            if ready_by < math.inf or earliest < math.inf:  # else nobody asks how long it takes
                # A request that no longer fits waits for the next batch, which is no larger than a full one.
                done_at += predict(min(samples + request.samples, self.max_batch_size))
            if request.completed:
                self._waiting -= 1
            elif ready_by <= done_at:
                self._waiting -= 1
                late.append(request)
            elif batch and request.batch_key != batch[0].batch_key:
                passed_over.append(request)
                self._samples += request.samples
            elif batch and (samples + request.samples > self.max_batch_size or earliest < done_at):
                self._queue.appendleft(request)
                self._samples += request.samples
                break
            else:
                self._waiting -= 1
                batch.append(request)
                samples += request.samples
                earliest = min(earliest, ready_by)
        self._queue.extendleft(reversed(passed_over))
        return batch, samples
