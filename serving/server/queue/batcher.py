"""The batching policy of one model: when its queued calls are computed, and which of them together.

Threads put calls in and take batches out, and none of them waits in here; the batcher knows neither gRPC nor ONNX
Runtime. The policy:

1. Fill while busy. As soon as an instance (of which the model has ``instances``) is free and a call waits, a batch may
   be taken. Calls that arrive while every instance computes gather, and are the next batch. So a lone call waits for no
   other, and batches grow with the load, without a timer.
2. Size and order. A batch has at most max_batch_size samples, the oldest calls first. Only calls with equal batch keys
   (same shapes beyond the batch axis) share one; others are passed over and keep their places. The first call that does
   not fit ends the batch, so that no later and smaller one overtakes it.
3. Delay, off by default. With max_queue_delay, a batch that is not full is held back until one of its calls has waited
   that long, or for half of the time that its deadline leaves to spare.
4. Admission. ``put`` refuses at once: after ``close`` (UnavailableError), when max_queue_size calls wait
   (QueueFullError), and when by the measured service time the answer would miss its deadline (DeadlineError).
5. Dropping. ``take`` leaves out calls that were cancelled or can no longer be computed in time, so that no computation
   is in vain. A call that would make the batch too long for another one's deadline waits for the next.
6. One outcome. Under the lock, ``cancel``, ``take`` and ``finish`` mark a call as done; the first that does so gives
   it its outcome.

A batch that fails is ``ServedModel.compute``'s matter: it computes each call once more, alone.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from hangtag.serving.server.batching.call import Call
from hangtag.serving.server.batching.deadlines import TOO_LATE, cancellation_error, hold_seconds, require_time
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
    ) -> None:
        """Create an empty queue.

        Args:
            max_batch_size: Most samples in one batch.
            max_queue_size: Most calls that wait.
            instances: Most batches that are computed at the same time.
            max_queue_delay: Seconds that a call may be held back to fill a batch.
            clock: Monotonic clock in seconds.
        """
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.instances = instances
        self.max_queue_delay = max_queue_delay
        self._clock = clock
        self.waiting = 0
        """Number of calls in the queue."""
        self._queue: deque[Call] = deque()
        self._samples = 0  # samples of the queue
        self._computing: dict[int, tuple[float, int]] = {}  # id of a batch not finished -> when taken, its samples
        self._service_time = ServiceTime(clock)
        self._closed = False
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    @property
    def computing(self) -> int:
        """Number of batches that were taken and are not finished."""
        return len(self._computing)

    @property
    def queued_samples(self) -> int:
        """Number of samples of the calls in the queue."""
        return self._samples

    @property
    def full_batch_seconds(self) -> float:
        """Seconds that a batch of max_batch_size samples is expected to take; 0 while the service time is not known."""
        with self._lock:
            return self._service_time.predict(self.max_batch_size)

    def expected_seconds(self, samples: int) -> float:
        """Seconds until a call of so many samples that came now would be computed; 0 as above."""
        with self._lock:
            return self._expected(samples, self._clock())

    def require_place(self) -> None:
        """Raise QueueFullError while max_queue_size calls wait. ``put`` does so too; a caller that asks first need not
        decode what would be refused."""
        if self.waiting >= self.max_queue_size:
            raise QueueFullError(
                f"{self.waiting} requests are waiting, as many as the queue holds; "
                "try again later with a back-off, or raise --max-queue-size"
            )

    def put(self, call: Call) -> None:
        """Queue a call; when this raises, the call gets no outcome here.

        Args:
            call: Not queued before, or refused by another queue.

        Raises:
            QueueFullError: max_queue_size calls wait.
            DeadlineError: By the measured service time, the call cannot be computed before its deadline.
            UnavailableError: The batcher is closed.
        """
        with self._lock:
            now = self._clock()
            if self._closed:
                raise UnavailableError(STOPPING)
            if self.waiting >= self.max_queue_size:
                self.require_place()
            call.ready_by = None
            if call.deadline is not None:
                require_time(call, self._expected(call.samples, now), busy=self._busy, now=now)
            call.enqueued = call.held_until = now
            if self.max_queue_delay:
                full_batch_seconds = self._service_time.predict(self.max_batch_size)
                call.held_until += hold_seconds(call, self.max_queue_delay, full_batch_seconds, now)
            call.queue = self
            self._queue.append(call)
            self.waiting += 1
            self._samples += call.samples

    def cancel(self, call: Call) -> None:
        """Withdraw a call. While it waits, it is never computed; while it is computed, its result is dropped.

        It ends with CancelledError, or with DeadlineError at its deadline, since clients cancel when it passes.
        """
        with self._lock:
            if call.done:
                return
            call.done = True
            if call in self._queue:  # else an instance computes it
                self._queue.remove(call)
                self.waiting -= 1
                self._samples -= call.samples
                self._notify_if_ended()
        call.end(cancellation_error(call, self._clock()))

    def take(self) -> list[Call]:
        """Take the next batch. The caller computes it and then calls ``finish``.

        Calls that were cancelled, or can no longer be computed in time, get their outcome and are left out.

        Returns:
            Calls with one batch key, the oldest first, of at most max_batch_size samples together. None of them if no
            batch is due, or every instance is busy.
        """
        while True:
            late: list[Call] = []
            with self._lock:
                if not self._due():
                    return []
                batch, samples = self._gather(late)
                if batch:
                    if not self._computing:
                        self._service_time.hold()
                    self._computing[id(batch)] = self._clock(), samples
                else:
                    self._notify_if_ended()
            for call in late:  # outside the lock: what a call does with its outcome is code of the transport
                call.end(DeadlineError(TOO_LATE))
            if batch:
                return batch

    def finish(self, batch: list[Call], seconds: float | None = None) -> list[Call]:
        """Free the instance that computed this batch.

        Args:
            batch: A list that ``take`` returned, the same object.
            seconds: How long the batch took to compute, for the service time; None if it failed.

        Returns:
            The calls that were not cancelled meanwhile, which the caller has to give their outcome.
        """
        with self._lock:
            _, samples = self._computing.pop(id(batch))
            if seconds is not None:
                self._service_time.observe(samples, seconds)
            if not self._computing:
                self._service_time.release()
            waiting = batch
            for call in batch:
                if call.done:
                    waiting = [call for call in batch if not call.done]
                    break
            for call in waiting:
                call.done = True
            if self._closed:
                self._notify_if_ended()
            return waiting

    def time_to_due(self) -> float | None:
        """Return the seconds until a batch may be taken; None if nothing waits, or every instance is busy."""
        with self._lock:
            if not self._queue or self._busy:
                return None
            return 0.0 if self._due() else max(0.0, self._held_until() - self._clock())

    def close(self) -> None:
        """Refuse new calls. What is queued can still be taken, without a delay."""
        with self._lock:
            self._closed = True
            self._notify_if_ended()

    def join(self) -> None:
        """Wait until what was queued is computed. Call it after ``close``."""
        with self._lock:
            while self._queue or self._computing:
                self._ended.wait()

    @property
    def _busy(self) -> bool:
        return len(self._computing) >= self.instances

    def _notify_if_ended(self) -> None:
        if self._closed and not self._queue and not self._computing:
            self._ended.notify_all()

    def _expected(self, new_samples: int, now: float) -> float:
        predict = self._service_time.predict
        whole_batches, rest = divmod(self._samples, self.max_batch_size)
        wait = whole_batches * predict(self.max_batch_size) / self.instances
        if self._busy:
            wait += min(max(0.0, since + predict(samples) - now) for since, samples in self._computing.values())
        # Where a whole batch waits already, calls that come later will fill this one's batch too.
        own = self.max_batch_size if whole_batches else min(rest + new_samples, self.max_batch_size)
        return wait + predict(own)

    def _due(self) -> bool:
        if not self._queue or self._busy:
            return False
        if self._closed or not self.max_queue_delay or self._samples >= self.max_batch_size:
            return True
        return self._clock() >= self._held_until()

    def _held_until(self) -> float:
        return min(call.held_until for call in self._queue)  # short: called only with less than a batch queued

    def _gather(self, late: list[Call]) -> tuple[list[Call], int]:
        """Remove the next batch from the queue; append to ``late`` what can no longer be computed in time.

        Returns:
            The batch, and its samples.
        """
        now = self._clock()
        predict = self._service_time.predict
        batch: list[Call] = []
        samples = 0
        earliest = math.inf  # the first ready_by in the batch: computing must end before it
        passed_over: list[Call] = []
        while self._queue and samples < self.max_batch_size:
            call = self._queue.popleft()
            self._samples -= call.samples
            ready_by = math.inf if call.ready_by is None else call.ready_by
            done_at = now
            if ready_by < math.inf or earliest < math.inf:  # else nobody asks how long it takes
                # A call that no longer fits waits for the next batch, which is no larger than a full one.
                done_at += predict(min(samples + call.samples, self.max_batch_size))
            if ready_by <= done_at:
                self.waiting -= 1
                call.done = True
                late.append(call)
            elif batch and call.batch_key != batch[0].batch_key:
                passed_over.append(call)
                self._samples += call.samples
            elif batch and (samples + call.samples > self.max_batch_size or earliest < done_at):
                self._queue.appendleft(call)
                self._samples += call.samples
                break
            else:
                self.waiting -= 1
                batch.append(call)
                call.row = samples
                call.queue_ns = int((now - call.enqueued) * 1e9)
                samples += call.samples
                earliest = min(earliest, ready_by)
        self._queue.extendleft(reversed(passed_over))
        return batch, samples
