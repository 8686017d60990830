"""The threads that compute the batches of all models. The threads can also receive the calls of a transport.

A free thread takes the next batch that is due, of any model, and computes the batch. No thread waits for a fuller
batch, because the calls that arrive while every instance of a model is busy become the next batch.

A transport may provide a function that *receives* calls. Only one thread at a time calls this function, which queues
the calls that have arrived. The thread then computes the batch that is due, while the next free thread receives.

At first, the pool has one thread for each instance of a model. Slow models could occupy all these threads. Then the
server could neither receive nor refuse calls, nor run other models. So when all threads are busy, the pool starts
another thread as soon as a batch is due, or if nothing has been received for a moment. A thread ends if it has no work,
and enough other threads are free.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from hangtag.serving.server.queue.batcher import Batcher
from hangtag.serving.server.queue.call import Call

log = structlog.get_logger()

_UNRECEIVED_SECONDS = 0.005
"""If every thread computes and nothing is received for this many seconds, a further thread starts to receive."""


class BatchExecutor(Protocol):
    """A version of a model, which computes the batches that are taken from its queue."""

    @property
    def batcher(self) -> Batcher: ...

    def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
        """Compute a batch that ``batcher.take`` returned, and finish it. ``alone`` states that nothing else is being
        computed. Return a function that answers or fails each call. Never raises an error."""


Receive = Callable[[int | None], bool]
"""A function that queues the calls that have arrived. It waits for a call, without the interpreter lock, for at most
the given milliseconds (None: no limit), returns False once no more calls will arrive, and raises no error."""


Work = tuple[BatchExecutor, list[Call]]


class ComputePool:
    """Runs threads from the first ``offer`` or ``receive_from`` until ``close``. Thread-safe."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        """How many batches one model may compute at the same time. Threads that `_watch` adds are not counted.
        `ServedModel` increases this number."""
        self._lock = threading.RLock()  # a Condition calls an RLock's methods in C, but a Lock's in Python
        self._work_or_end = threading.Condition(self._lock)
        self._running: set[threading.Thread] = set()
        self._waiting = 0  # threads that wait for ``_work_or_end``
        self._waking = 0  # threads that were notified or started but are not running yet
        self._start_failed = False  # whether the last attempt to start a thread failed
        self._due: dict[BatchExecutor, None] = {}  # models that may have a batch to compute
        self._offers = 0
        self._wake_later: dict[int, Callable[[], None]] = {}  # thread -> its function; see ``gather_offers``
        self._receive: Receive | None = None
        self._receiver: int | None = None  # the thread that receives
        self._receptions = 0
        self._unreceived = threading.Event()  # set if no thread receives calls, and none was woken to do so
        self._summoned = False  # whether a thread may receive even while ``threads`` other threads are busy
        self._computing: set[int] = set()  # threads that compute
        self._after: dict[Callable[[], None], None] = {}  # in the order of the calls to ``after_batch``
        self._closed = False

    def after_batch(self, work: Callable[[], None]) -> None:
        """Postpone work until a thread has answered all calls of its batch, so that no caller waits for the work. It
        must not raise an error. If the same work is passed several times before it begins, it is done only once."""
        self._after[work] = None

    def offer(self, model: BatchExecutor) -> None:
        """Compute a batch of this model as soon as a batch is due. Call this method after queueing a call."""
        self._due[model] = None
        thread = threading.get_ident()
        if thread == self._receiver:  # the receiver takes a batch after it has received all calls that have arrived
            return
        if (wake_later := self._wake_later.get(thread)) is not None:
            wake_later()
        else:
            self.wake()

    def gather_offers(self, wake_later: Callable[[], None]) -> None:
        """Let this thread offer several calls before a batch is taken. In this thread, ``offer`` then calls
        ``wake_later``, which must make sure that ``wake`` is called soon."""
        self._wake_later[threading.get_ident()] = wake_later

    def wake(self) -> None:
        """Let a thread look for batches that are due."""
        with self._lock:
            self._offers += 1
            self._wake()

    def _wake(self, *, needed: bool = False) -> None:
        """Let a waiting thread look for work. If there is none, start a thread, provided that it is ``needed``, a batch
        is due, or fewer than ``threads`` threads run. Callers must hold the lock."""
        if self._waking:
            return  # a woken thread will look for work, and wakes the next thread when it takes some
        if self._waiting:
            self._waking += 1
            self._work_or_end.notify()
        # If all instances of a model are computing, the first instance to finish takes the waiting calls.
        elif (
            needed
            or len(self._running) < self.threads
            or any(model.batcher.time_to_due() is not None for model in list(self._due))
        ):
            self._start()

    def receive_from(self, receive: Receive) -> None:
        with self._lock:
            self._receive = receive
            self._wake(needed=True)
        threading.Thread(target=self._watch, name="compute-watch", daemon=True).start()

    def close(self) -> None:
        """End the threads. Before that, all models must be closed, and no more calls may be received."""
        with self._lock:
            self._closed = True
            self._work_or_end.notify_all()
            running = list(self._running)
        self._unreceived.set()
        for thread in running:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._running.add(thread)
        self._waking += 1
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more threads, so the running threads compute the batch
            self._running.discard(thread)
            self._waking -= 1
            if not self._start_failed:  # the watching thread tries again every few milliseconds
                log.warning("a thread that computes did not start", reason=str(error))
            self._start_failed = True
        else:
            self._start_failed = False

    def _run(self) -> None:
        with self._lock:
            self._waking = max(0, self._waking - 1)
        while self._compute_next():
            pass

    def _compute_next(self) -> bool:
        """Compute the next batch. Return False if the thread should end. A waiting thread holds no calls in memory."""
        work = self._next()
        if work is None:
            return False
        model, batch = work
        try:
            answer = model.compute(batch, alone=len(self._computing) == 1)
            # before the answer, because a caller may send its next call as soon as it has the answer
            self._computing.discard(threading.get_ident())
            answer()
            del answer  # its errors refer to this frame, and a reference cycle would keep the calls in memory
            for work_after in tuple(self._after):
                if self._after.pop(work_after, False) is None:  # False if another thread does the work
                    work_after()
        except Exception:  # an error of the server's own code must not end the thread
            log.exception("computing a batch failed")
        finally:
            self._computing.discard(threading.get_ident())
            if model.batcher.waiting:  # calls that gathered while every instance was busy
                self._due[model] = None
        return True

    def _next(self) -> Work | None:
        """Return the next batch, or None if the thread should end. Calls that arrived while all threads were busy
        are received first, so that they join the batch."""
        while True:
            with self._lock:
                others = len(self._running) - self._waiting - 1
                self._summoned = self._summoned and others - (self._receiver is not None) >= self.threads
                receives = self._receiver is None and self._may_receive(others)
                if receives:
                    self._receiver = threading.get_ident()
            offers = self._offers
            work: Work | None = None
            seconds: float | None = None
            if receives:
                work, seconds = self._received()
            elif self._due:
                work, seconds = self._take()
            with self._lock:
                if receives:
                    self._receiver = None
                if work is not None:
                    self._computing.add(threading.get_ident())
                    # wake another thread, to receive calls or take the next batch while this thread computes
                    if self._receive is not None and self._receiver is None:
                        may_receive = self._may_receive(len(self._running) - self._waiting)
                        if may_receive:
                            self._wake()
                        # if ``may_receive`` is false, a woken thread does not receive: it was woken for a batch
                        if not (may_receive and self._waking) and not self._unreceived.is_set():
                            self._unreceived.set()
                    elif self._due:
                        self._wake()
                    return work
                others = len(self._running) - self._waiting - 1
                if self._offers != offers or (self._receiver is None and self._may_receive(others)):
                    continue
                # if this pool receives calls, it keeps one more thread, which can receive while the others compute
                enough = self.threads + (self._receive is not None)
                is_surplus = self._waiting + (self._receiver is not None) >= enough
                if self._closed or (is_surplus and seconds is None):
                    self._running.discard(threading.current_thread())
                    return None
                self._waiting += 1
                self._work_or_end.wait(seconds)
                self._waiting -= 1
                self._waking = max(0, self._waking - 1)

    def _may_receive(self, others: int) -> bool:
        """Whether a thread may start to receive calls when no thread receives and ``others`` threads compute. If too
        many threads worked, they would take the interpreter lock from each other, and batches would be smaller."""
        return self._receive is not None and (self._summoned or others < self.threads)

    def _take(self) -> tuple[Work | None, float | None]:
        """Take a due batch. Without one, return the seconds until a batch is due, or None if no call waits."""
        earliest: float | None = None
        for model in list(self._due):
            self._due.pop(model, None)  # before the queue is read, because a later call marks the model as due again
            batcher = model.batcher
            batch = batcher.take()
            seconds = batcher.time_to_due() if batcher.waiting else None
            if seconds is not None:  # None if no call waits, or if a busy instance will take the calls when it finishes
                self._due[model] = None
                earliest = seconds if earliest is None else min(earliest, seconds)
            if batch:
                return (model, batch), None
        return None, earliest

    def _received(self) -> tuple[Work | None, float | None]:
        """Receive calls until a batch is due, and return that batch, or no batch if no more calls will arrive."""
        assert self._receive is not None
        milliseconds = 0 if self._due else None
        while True:
            self._receptions += 1
            if not self._receive(milliseconds):
                self._receive = None
                return None, None
            work, seconds = self._take()
            if work is not None:
                return work, None
            milliseconds = None if seconds is None else math.ceil(seconds * 1e3)

    def _watch(self) -> None:
        """Let another thread receive calls if no thread has done so for _UNRECEIVED_SECONDS."""
        while self._receive is not None and not self._closed:
            self._unreceived.wait()
            receptions = self._receptions
            time.sleep(_UNRECEIVED_SECONDS)
            with self._lock:
                if self._receiver is not None:
                    self._unreceived.clear()
                elif self._receptions == receptions and self._receive is not None:
                    self._summoned = True
                    self._wake(needed=True)
