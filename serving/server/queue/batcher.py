"""The batching policy of one model. The policy decides when queued calls are computed, and which calls share a batch.

Threads put calls in and take batches out, and never wait here. The batcher uses neither gRPC nor ONNX Runtime. The
policy:

1. Fill while busy. As soon as one of the model's ``instances`` is free and a call waits, a batch may be taken. Calls
   that arrive while every instance is busy form the next batch. So a single call does not wait for other calls, and
   batches grow with the load, without a timer.
2. Size and order. A batch has at most max_batch_size samples, the oldest calls first. Only calls with equal batch keys
   (same shapes except for the batch axis) share a batch; calls with other keys are skipped and keep their places. The
   first call that does not fit ends the batch, so that no later, smaller call overtakes it.
   If several instances are free, and the measured service time shows that this is worthwhile, the queued calls are
   divided among these instances.
3. Delay, off by default. With max_queue_delay, a batch that is not full is held back until one of its calls has waited
   for the delay, or for half of the time that it can spare before its deadline.
4. Admission. ``put`` refuses a call at once after ``close`` (UnavailableError), if max_queue_size calls wait
   (QueueFullError), or if, by the measured service time, the answer would miss its deadline (DeadlineError).
5. Dropping. ``take`` leaves out calls that were cancelled or can no longer be computed in time, so that no computation
   is wasted. A call that would make the batch too slow for another call's deadline waits for the next batch.
6. One outcome. Under the lock, ``cancel``, ``take`` and ``finish`` mark a call as done. The first of the three to mark
   a call gives the call its outcome.

If a batch fails, ``ServedModel.compute`` computes each of its calls once more, alone.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from hangtag.serving.server.errors import STOPPING, DeadlineError, QueueFullError, UnavailableError
from hangtag.serving.server.queue.call import Call
from hangtag.serving.server.queue.service_time import ServiceTime

RESERVED_SHARE = 0.2
"""The batcher does not see the time before a call is read and after the answer is sent. While all instances are busy,
this unseen time is long, so 20 % of the time to the deadline is reserved for it. Without a reserve, nearly every answer
of an overloaded server would come just too late (studies/bench/README.md)."""

_WORTH_DIVIDING_SECONDS = 0.0005
"""Queued calls are divided among free instances only if the last answer is then earlier by at least this time."""
_DIVIDING_COST = 1.1
"""Queued calls are divided only if all parts together take at most this many times as long as one batch."""

_TOO_LATE = "the request was dropped: its deadline passed while it waited, or would have passed before the answer"


class Batcher:
    """The queue of one model. Thread-safe."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_size: int,
        instances: int,
        max_queue_delay: float = 0.0,
        divided: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_batch_size`` is a number of samples, and ``max_queue_size`` a number of calls. At most ``instances``
        batches are computed at once. A call may be held back for ``max_queue_delay`` seconds to fill a batch."""
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.instances = instances
        self.max_queue_delay = max_queue_delay
        self._divided = divided
        self._clock = clock
        self.waiting = 0
        """Number of calls in the queue."""
        self._queue: deque[Call] = deque()
        self.queued_samples = 0
        self._computing: dict[int, tuple[float, int]] = {}  # id of an unfinished batch -> time of ``take``, samples
        self._service_time = ServiceTime(clock)
        self._closed = False
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    @property
    def computing(self) -> int:
        return len(self._computing)

    def raise_if_queue_full(self) -> None:
        """Raise QueueFullError while max_queue_size calls wait, so that a request is refused before it is decoded."""
        if self.waiting >= self.max_queue_size:
            raise QueueFullError(
                f"{self.waiting} requests are waiting, and the queue holds no more; try again later with a back-off, "
                "or raise --max-queue-size"
            )

    def put(self, call: Call) -> None:
        """Queue a call. If this method raises an error of rule 4, the caller must give the call its outcome."""
        with self._lock:
            now = self._clock()
            if self._closed:
                raise UnavailableError(STOPPING)
            if self.waiting >= self.max_queue_size:
                self.raise_if_queue_full()
            call.ready_by = math.inf if call.deadline is None else self._ready_by(call, call.deadline, now)
            call.enqueued = call.held_until = now
            if self.max_queue_delay:
                spare = call.ready_by - now - self._service_time.predict(self.max_batch_size)
                call.held_until += min(self.max_queue_delay, max(0.0, spare / 2))
            call.queue = self
            self._queue.append(call)
            self.waiting += 1
            self.queued_samples += call.samples

    def cancel(self, call: Call) -> None:
        """Withdraw a call. The result of a call that is being computed is dropped."""
        with self._lock:
            if call.done:
                return
            call.done = True
            if call in self._queue:  # otherwise, an instance already computes it
                self._queue.remove(call)
                self.waiting -= 1
                self.queued_samples -= call.samples
                self._notify_if_ended()
        call.end(call.cancellation_error(self._clock()))

    def take(self) -> list[Call]:
        """Return the next batch, which the caller computes and then passes to ``finish``; empty if no batch is due."""
        while True:
            late: list[Call] = []
            with self._lock:
                if (
                    not self._queue
                    or len(self._computing) >= self.instances
                    or (self.max_queue_delay and self._held_for() > 0)
                ):
                    return []
                now = self._clock()
                batch, samples = self._gather(now, late)
                if batch:
                    if not self._computing:
                        self._service_time.held = now <= self._service_time.fresh_until
                    self._computing[id(batch)] = now, samples
                else:
                    self._notify_if_ended()
            for call in late:  # without the lock, because ``end`` runs code of the transport
                call.end(DeadlineError(_TOO_LATE))
            if batch:
                return batch

    def finish(self, batch: list[Call], seconds: float | None = None) -> list[Call]:
        """Free the instance that computed ``batch``, the list object from ``take``. ``seconds`` is the computing time
        (None: the batch failed). Return the calls that were not cancelled, which still need an outcome."""
        with self._lock:
            _, samples = self._computing.pop(id(batch))
            if seconds is not None:
                self._service_time.observe(samples, seconds)
            if not self._computing:
                self._service_time.held = False
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
        """Return the seconds until a batch may be taken, or None if no call waits or every instance is busy."""
        with self._lock:
            if not self._queue or len(self._computing) >= self.instances:
                return None
            return self._held_for() if self.max_queue_delay else 0.0

    def close(self) -> None:
        """Refuse new calls. Queued calls can still be taken, without a delay."""
        with self._lock:
            self._closed = True
            self._notify_if_ended()

    def join(self) -> None:
        """Wait until all queued calls are computed. Call this method after ``close``."""
        with self._lock:
            while self._queue or self._computing:
                self._ended.wait()

    def _notify_if_ended(self) -> None:
        if self._closed and not self._queue and not self._computing:
            self._ended.notify_all()

    def _ready_by(self, call: Call, deadline: float, now: float) -> float:
        """Return the time by which a call's batch must be finished. Raises DeadlineError if the call would be late."""
        predict = self._service_time.predict
        whole_batches, rest = divmod(self.queued_samples, self.max_batch_size)
        # If the waiting calls already fill a batch, assume that later calls will fill the batch that this call joins.
        own = self.max_batch_size if whole_batches else min(rest + call.samples, self.max_batch_size)
        expected = predict(own)
        if whole_batches:
            expected += whole_batches * predict(self.max_batch_size) / self.instances
        share = 1.0
        if len(self._computing) >= self.instances:
            expected += min(max(0.0, since + predict(samples) - now) for since, samples in self._computing.values())
            share -= RESERVED_SHARE
        remaining = deadline - now
        ready_by = now + share * remaining
        if ready_by < now + expected:
            left = f"is in {remaining * 1e3:.1f} ms" if remaining > 0 else "has passed"
            raise DeadlineError(
                f"an answer needs about {expected / share * 1e3:.1f} ms now, but the deadline {left}; nothing was "
                "started. Allow more time, or try again later"
            )
        return ready_by

    def _held_for(self) -> float:
        """Return for how many more seconds the queued calls are held back, to fill the next batch."""
        if self._closed or self.queued_samples >= self.max_batch_size:
            return 0.0
        held_until = min(call.held_until for call in self._queue)  # a short loop: the calls do not fill a batch
        return max(0.0, held_until - self._clock())

    def _enough(self) -> int:
        """Return how many samples the next batch should have at most, which is less than ``max_batch_size`` if dividing
        the queued calls among the free instances is worthwhile."""
        free, queued = self.instances - len(self._computing), self.queued_samples
        if free > 1:
            part = math.ceil(queued / free)
            whole, divided = self._service_time.predict(queued), self._service_time.predict(part)
            if whole - divided >= _WORTH_DIVIDING_SECONDS and free * divided <= _DIVIDING_COST * whole:
                return min(part, self.max_batch_size)
        return self.max_batch_size

    def _gather(self, now: float, late: list[Call]) -> tuple[list[Call], int]:
        """Remove the next batch from the queue, and return it with its number of samples. Append to ``late`` the calls
        that can no longer be computed in time."""
        predict = self._service_time.predict
        batch: list[Call] = []
        samples = 0
        earliest = math.inf  # the earliest ready_by of the batch's calls
        passed_over: list[Call] = []
        enough = self._enough() if self._divided and self.waiting > 1 else self.max_batch_size
        while self._queue and samples < enough:
            call = self._queue.popleft()
            self.queued_samples -= call.samples
            ready_by, done_at = call.ready_by, now
            if ready_by < math.inf or earliest < math.inf:  # without a deadline, the duration does not matter
                # A call that would make the batch too late waits for the next batch.
                done_at += predict(min(samples + call.samples, self.max_batch_size))
            if ready_by <= done_at:
                self.waiting -= 1
                call.done = True
                late.append(call)
            elif batch and call.batch_key != batch[0].batch_key:
                passed_over.append(call)
                self.queued_samples += call.samples
            elif batch and (samples + call.samples > self.max_batch_size or earliest < done_at):
                self._queue.appendleft(call)
                self.queued_samples += call.samples
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
