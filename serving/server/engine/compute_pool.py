"""The threads that compute the batches of all models, and that receive calls for a transport that needs them for it.

A free thread takes the next batch that is due, whatever its model, and computes it. No thread waits for a fuller batch:
while every instance of a model computes, its calls gather and are the next batch.

A transport may bring a function by which one thread at a time *receives*: it queues the calls that have come, and
computes the batch that is then due itself, while the next free thread receives. So a lone call is received, computed
and answered by one thread.

There are as many threads as one model may compute batches at once. Models that compute for long would occupy all of
them, and then nothing would be received, computed for other models, or refused. So *further* threads start when a batch
is due, or when nothing has been received for a moment, and no thread is free. They end after a second without work.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.call import Call

log = structlog.get_logger()

UNRECEIVED_SECONDS = 0.005
"""How long nothing may be received, since every thread computes, until a further thread does so."""
_IDLE_SECONDS = 1.0
"""How long a further thread waits for work."""


class Computer(Protocol):
    """What batches are taken from and computed by: a version of a model."""

    @property
    def batcher(self) -> Batcher: ...

    def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
        """Compute a batch that ``batcher.take`` returned, and finish it. Never raises.

        Args:
            batch: The same object.
            alone: Nothing else is being computed.

        Returns:
            What gives the calls their outcomes.
        """


Receive = Callable[[int | None], bool]
"""Queues the calls that have come. Waits, without the interpreter lock, until there are some, or for so many
milliseconds (None: without end). Returns False once no more will come. Never raises."""


Work = tuple[Computer, list[Call]]
"""A batch, and what computes it."""


class ComputePool:
    """Runs threads from the first ``offer`` or ``receive_from`` until ``close``. Thread-safe."""

    def __init__(self, threads: int) -> None:
        """Start no thread yet. threads: how many there are always."""
        self._threads = threads
        self._lock = threading.Lock()
        self._core = _Waiting(self._lock)
        self._further = _Waiting(self._lock)
        self._running: set[threading.Thread] = set()
        self._starting = 0  # threads of these that do not run yet
        self._due: dict[Computer, None] = {}  # models that may have a batch
        self._offers = 0
        self._wake_later: dict[int, Callable[[], None]] = {}  # by thread
        self._receive: Receive | None = None
        self._receiver: int | None = None  # the thread that receives
        self._receptions = 0
        self._unreceived = threading.Event()  # no thread was free to receive
        self._further_receive = False  # nothing was received for a moment, so that a further thread may do so
        self._is_summoned = False  # a further thread was woken or started for it, and has not come yet
        self._computing: set[int] = set()  # threads
        self._after: dict[Callable[[], None], None] = {}  # in the order of their calls
        self._closed = False

    def after_batch(self, work: Callable[[], None]) -> None:
        """Do some work when a thread has answered all calls of its batch, so that no other caller waits for it.

        Args:
            work: It must not raise. If it is passed more than once until then, it is called once.
        """
        self._after[work] = None

    def offer(self, model: Computer) -> None:
        """Have a batch of this model computed as soon as one is due. To be called after a call was queued."""
        self._due[model] = None
        thread = threading.get_ident()
        if thread == self._receiver:  # it takes a batch when it has received all
            return
        if (wake_later := self._wake_later.get(thread)) is not None:
            wake_later()
        else:
            self.wake()

    def gather_offers(self, wake_later: Callable[[], None]) -> None:
        """Let this thread offer several calls before a batch is taken.

        Args:
            wake_later: Called at each offer of this thread; it has to see to it that ``wake`` is called soon.
        """
        self._wake_later[threading.get_ident()] = wake_later

    def wake(self) -> None:
        """Have a thread look for batches that are due."""
        with self._lock:
            self._offers += 1
            self._wake()

    def _wake(self) -> None:
        if self._starting or self._core.notified or self._further.notified:
            return  # a thread is about to look, and wakes the next one when it takes a batch
        if self._core.notify() or self._further.notify():
            return
        if len(self._running) < self._threads:
            self._start(further=False)
        # Where every instance of a model computes, the first that finishes takes what waits.
        elif any(model.batcher.time_to_due() is not None for model in list(self._due)):
            self._start(further=True)

    def receive_from(self, receive: Receive) -> None:
        """Receive calls by this function from now on, until it returns False."""
        with self._lock:
            self._receive = receive
            self._core.notify()
            while len(self._running) < self._threads:
                self._start(further=False)
        threading.Thread(target=self._watch, name="compute-watch", daemon=True).start()

    def close(self) -> None:
        """End the threads. Call it when all models are closed, and nothing is received any more."""
        with self._lock:
            self._closed = True
            self._core.notify_all()
            self._further.notify_all()
            running = list(self._running)
        self._unreceived.set()
        for thread in running:
            thread.join()

    def _start(self, *, further: bool) -> None:
        name = "compute-further" if further else "compute"
        thread = threading.Thread(target=self._work, args=(further,), name=name, daemon=True)
        self._running.add(thread)
        self._starting += 1
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left: those that there are compute the batch later
            self._running.discard(thread)
            self._starting -= 1
            log.warning("a thread that computes did not start", reason=str(error))

    def _work(self, further: bool) -> None:
        with self._lock:
            self._starting -= 1
        while self._compute_next(further):
            pass

    def _compute_next(self, further: bool) -> bool:
        """Compute the next batch. Returns False where the thread is to end. A thread that waits keeps no calls."""
        work = self._next(further)
        if work is None:
            return False
        model, batch = work
        self._computing.add(threading.get_ident())
        try:
            answer = model.compute(batch, alone=len(self._computing) == 1)
            self._computing.discard(threading.get_ident())  # before a lone caller has its answer, and calls again
            answer()
            for work_after in tuple(self._after):
                if self._after.pop(work_after, False) is None:  # else another thread does it
                    work_after()
        except Exception:  # a bug of ours must not end the thread
            log.exception("computing a batch failed")
        finally:
            self._computing.discard(threading.get_ident())
            if model.batcher.waiting:  # what has gathered while every instance computed
                self._due[model] = None
        return True

    def _next(self, further: bool) -> Work | None:
        """Return the next batch; None where the thread is to end.

        A thread that may receive does so first, so that its batch has what came while all threads computed.
        """
        while True:
            with self._lock:
                receives = self._may_receive(further)
                if receives:
                    self._receiver = threading.get_ident()
                    self._further_receive = self._further_receive and further
                    self._is_summoned = False
            offers = self._offers
            work, seconds = self._received() if receives else self._take()
            with self._lock:
                if receives:
                    self._receiver = None
                if work is not None:
                    self._pass_on()
                    return work
                if self._offers != offers or self._may_receive(further):
                    continue
                if self._closed:
                    break
                if not further:
                    self._core.wait(seconds)
                elif not self._further.wait(_IDLE_SECONDS if seconds is None else seconds) and not self._due:
                    break
        self._running.discard(threading.current_thread())
        return None

    def _pass_on(self) -> None:
        """Before this thread computes, wake another one that receives, or takes what is left."""
        if self._receive is not None and self._receiver is None:
            if not self._core.notified and not self._core.notify() and not self._unreceived.is_set():
                self._unreceived.set()
        elif self._due:
            self._wake()

    def _may_receive(self, further: bool) -> bool:
        return self._receive is not None and self._receiver is None and (self._further_receive or not further)

    def _take(self) -> tuple[Work | None, float | None]:
        """Take a batch that is due. Where none is, return the seconds until one is; None where none is held back."""
        earliest: float | None = None
        for model in list(self._due):
            self._due.pop(model, None)  # before its queue is looked at: a call that comes then is offered again
            batcher = model.batcher
            batch = batcher.take()
            seconds = batcher.time_to_due() if batcher.waiting else None
            if seconds is not None:  # else no call waits, or the first instance that finishes takes what does
                self._due[model] = None
                earliest = seconds if earliest is None else min(earliest, seconds)
            if batch:
                return (model, batch), None
        return None, earliest

    def _received(self) -> tuple[Work | None, float | None]:
        """Receive until a batch is due, and return it; no batch once no more calls will come."""
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
        """Let a further thread receive where nothing was received for a moment."""
        while self._receive is not None and not self._closed:
            self._unreceived.wait()
            receptions = self._receptions
            time.sleep(UNRECEIVED_SECONDS)
            with self._lock:
                if self._receiver is not None:
                    self._unreceived.clear()
                elif self._receptions == receptions and self._receive is not None and not self._is_summoned:
                    self._further_receive = self._is_summoned = True
                    if not self._further.notify():
                        self._start(further=True)


class _Waiting:
    """Threads that wait for work. To be used with the pool's lock held."""

    def __init__(self, lock: threading.Lock) -> None:
        self._condition = threading.Condition(lock)
        self._count = 0
        self.notified = 0
        """How many of them are about to go on."""

    def wait(self, seconds: float | None) -> bool:
        """Wait; False if nothing has happened for so many seconds."""
        self._count += 1
        notified = self._condition.wait(seconds)
        self._count -= 1
        self.notified = max(0, self.notified - 1)
        return notified

    def notify(self) -> bool:
        """Let one thread go on; False where none waits."""
        if self._count == self.notified:
            return False
        self.notified += 1
        self._condition.notify()
        return True

    def notify_all(self) -> None:
        """Let all go on."""
        self.notified = self._count
        self._condition.notify_all()
