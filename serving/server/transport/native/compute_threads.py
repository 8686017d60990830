"""The threads that receive calls and compute batches: whichever of them is free does both.

A free thread *sweeps*: it takes the events that have come from the library, submits their queries, and takes a batch
from a model's queue. Then it lets the next free thread sweep, and computes its batch. No thread waits for a fuller
batch: while all compute, calls gather in the library and in the queues, and are the next batches.

While every thread computes, none would sweep: calls for other models would wait, and calls over the queue's limit
would not be refused. So a further thread, the *stand-by*, sweeps then. It wakes the models' own threads and computes
nothing itself.
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import structlog

from hangtag.serving.server.batching.request import QueuedRequest
from hangtag.serving.server.engine.servable import Computer

log = structlog.get_logger()

MAX_EVENTS = 256
"""Events that one sweep takes at most."""
STAND_BY_SECONDS = 0.005
"""How long no thread may have swept until the stand-by does."""


Event: TypeAlias = tuple[Any, ...]
Receive: TypeAlias = Callable[[int, int | None], Sequence[Event] | None]
"""Takes a number of events and a time limit in milliseconds (None: no limit). Blocks without the interpreter lock until
there is an event or the time is over, and returns what has come; None once the library is closed."""
Dispatch: TypeAlias = Callable[[Event, bool], Sequence[Computer]]
"""Handles one event and returns the models one of which it may have queued a request with. It must not block. The
second argument says whether to wake that model's own threads, because no thread here will take the batch."""


class ComputeThreads:
    """Runs the threads from ``start`` until ``receive`` returns None; ``join`` waits for their end."""

    def __init__(self, dispatch: Dispatch, count: int) -> None:
        """Create the threads.

        Args:
            dispatch: Submits queries.
            count: How many batches may be computed here at once.
        """
        self._receive: Receive
        self._dispatch = dispatch
        self._sweeping = threading.Lock()
        self._waiting_to_sweep: list[None] = []  # one element a thread: append and pop are atomic, += is not
        self._sweeps = 0
        self._active = threading.Event()  # set when a thread has stopped sweeping; cleared after a quiet time
        self._closed = threading.Event()
        self._queued: dict[Computer, None] = {}  # models whose queue may have a batch; the sweeping thread's alone
        self._threads = [threading.Thread(target=self._serve, name=f"native-{n}", daemon=True) for n in range(count)]
        self._threads.append(threading.Thread(target=self._stand_by, name="native-stand-by", daemon=True))

    def start(self, receive: Receive) -> None:
        """Start the threads. receive: takes events from the library."""
        self._receive = receive
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the threads' end. Call it after the library was closed."""
        self._closed.set()
        self._active.set()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            self._waiting_to_sweep.append(None)
            with self._sweeping:
                self._waiting_to_sweep.pop()
                self._sweeps += 1
                try:
                    model, batch = self._next_batch()
                except EOFError:
                    return
                except Exception:  # a bug of ours must not end the thread
                    log.exception("receiving calls failed")
                    continue
            if not self._active.is_set():
                self._active.set()
            try:
                while batch:  # an instance that finishes takes what has gathered for it
                    model.execute(batch)
                    batch = model.batcher.take(wait=False)
            except Exception:  # a bug of ours
                log.exception("computing a batch failed")
                model.batcher.wake()  # the model's own threads take what has gathered for it
            del model, batch  # a thread that waits must not keep an unloaded model in memory

    def _next_batch(self) -> tuple[Computer, list[QueuedRequest]]:
        """Sweep until a batch is due. Raises EOFError once the library is closed."""
        wait_ms = 0 if self._queued else None
        model: Computer | None
        batch: list[QueuedRequest] | None
        while True:
            self._sweep(wait_ms, wake=False)
            for model in list(self._queued):
                batch = model.batcher.take(wait=False)
                if not len(model.batcher):
                    del self._queued[model]
                if batch:
                    return model, batch
            model = batch = None  # a thread that waits must not keep an unloaded model in memory
            wait_ms = self._milliseconds_to_due()

    def _sweep(self, wait_ms: int | None, *, wake: bool) -> None:
        events = self._receive(MAX_EVENTS, wait_ms)
        if events is None:
            raise EOFError
        for event in events:
            try:
                models = self._dispatch(event, wake)
            except Exception:  # a bug of ours must not cost the events that came with this one
                log.exception("an event was lost")
                continue
            if not wake:
                for model in models:
                    self._queued[model] = None

    def _milliseconds_to_due(self) -> int | None:
        """Milliseconds until a batch that is held back is due. Forgets models without one: what is queued while every
        instance is busy is taken by the first that finishes."""
        due = {model: model.batcher.time_to_due() for model in self._queued}
        self._queued = {model: None for model, seconds in due.items() if seconds is not None}
        return min((math.ceil(seconds * 1e3) for seconds in due.values() if seconds is not None), default=None)

    def _stand_by(self) -> None:
        while True:
            self._active.wait()
            sweeps = self._sweeps
            if self._closed.wait(STAND_BY_SECONDS):
                return
            if self._sweeps != sweeps:
                continue
            if not self._sweeping.acquire(blocking=False):
                self._rest()
                continue
            try:
                self._sweep_for_busy_threads()
            except EOFError:
                return
            except Exception:  # a bug of ours must not end the thread
                log.exception("receiving calls failed")
            finally:
                self._sweeping.release()

    def _sweep_for_busy_threads(self) -> None:
        for model in self._queued:
            model.batcher.wake()
        self._queued = {}
        while not self._waiting_to_sweep:
            self._sweep(math.ceil(STAND_BY_SECONDS * 1e3), wake=True)

    def _rest(self) -> None:
        """Let the stand-by sleep while one thread waits for calls, until that one leaves to compute."""
        self._active.clear()
        # The thread that sets the event may have done so just before it was cleared: a thread that leaves, or join.
        if self._closed.is_set() or not self._sweeping.locked():
            self._active.set()
