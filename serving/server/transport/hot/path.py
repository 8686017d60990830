"""Leader and followers on grpcio's completion queue: the thread that polls a call computes it.

One thread at a time leads: it polls, gathers calls until a batch is full or nothing more is pending, passes the lead on
and computes the batch itself. So a call changes threads as seldom as it can, and what arrives during a computation
forms the next batch. While another thread computes, the leader waits a moment for its batch to fill.

Between "everybody computes" and "nobody polls" lies no difference, so a reserve thread steps in when the lead is vacant
for some milliseconds: it polls and queues, and leaves the computing to the models' own threads, so that a slow model
holds up neither health checks nor another model's calls.
"""

import threading
import time
from typing import Any, Protocol

import structlog

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import QueuedRequest
from hangtag.serving.server.errors import DeadlineError, QueueFullError
from hangtag.serving.server.transport.hot.completion_queue import (
    OPERATION_DONE,
    TIMED_OUT,
    SharedServer,
    Tag,
    UnaryCall,
)
from hangtag.serving.server.transport.hot.filling import Filling
from hangtag.serving.server.transport.hot.leader import Lead
from hangtag.serving.server.transport.status import call_status

log = structlog.get_logger()

_REQUESTED_CALLS = 8  # outstanding at gRPC's core: new calls need not wait until the leader asks for them
# While another thread computes and answers, a leader may wait for a fuller batch (filling.py), until nothing has come
# for so long, and no longer than so long altogether.
_FILL_SILENCE_SECONDS = 0.001
_FILL_SECONDS = 0.002
_LONE_BATCHES = 8  # so many in a row, and calls are taken to come one at a time
_MOMENT_SECONDS = 0.001
# Refusing costs processor time that the batches in work need, so after so many full queues in a row the reserve thread
# rests for so long. What is over capacity waits for its refusal that much longer, unless calls are found too old.
_REFUSALS = 16
_NO_REST = -64
_REFUSAL_REST_SECONDS = 0.002
_RESERVE_SECONDS = 0.005  # how long the lead may be vacant


class Computer(Protocol):
    """What a batch is taken from and computed by: a served model."""

    @property
    def batcher(self) -> Batcher: ...

    def execute(self, batch: list[QueuedRequest]) -> None: ...


Batch = tuple[Computer, list[QueuedRequest]]


class Handler(Protocol):
    """What to do with the calls of a method, on the thread that polls. So neither may block. What they raise ends the
    call with its status, unless they have ended it themselves, with more to say."""

    def admit(self, call: UnaryCall) -> None:
        """Refuse a call by what is known before its request is read, by raising."""

    def handle(self, call: UnaryCall, message: bytes | None, *, wake: bool) -> Computer | None:
        """Answer or queue a call; returns the model that it was queued for.

        wake: nobody who asks here will compute it, so wake the model's own threads.
        """


class HotPath:
    """Serves one unary method of a server. ``start`` it instead of the server, ``close`` it when the server stopped."""

    def __init__(self, server: SharedServer, method: str, handler: Handler, threads: int) -> None:
        self._server = server
        self._queue = server.queue
        self._method = method
        self._handler = handler
        self._new_call = _NewCall(self)
        self._lead = Lead()
        self._filling = Filling()
        self._waiting: dict[Computer, None] = {}  # models that calls were queued for; the leader's alone
        self._computing = 0
        self._counting = threading.Condition()
        self._in_reserve = False  # the reserve thread leads
        self._refused = 0  # calls in a row that met a full queue
        self._lone_batches = 0  # batches in a row of one call each, with nothing else waiting or computed
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name=f"hot-{number}", daemon=True) for number in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._stand_by, name="hot-reserve", daemon=True))

    def start(self) -> None:
        """Start the server, and serve."""
        self._server.take_over(self._method)
        self._server.start()
        for _ in range(_REQUESTED_CALLS):
            self._server.request(self._method, self._new_call)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads. The server has stopped and the models are closed, so nothing more will be computed.

        What is computed is finished first: gRPC's core ends the process when an operation comes after the queue's end.
        """
        with self._counting:
            self._counting.wait_for(lambda: not self._computing)
        self._closed.set()
        self._queue.shutdown()
        self._lead.vacant.set()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            self._lead.take()
            try:
                found = self._gather()
            except Exception:  # a bug of ours may not end the thread, and with it everything
                log.exception("polling failed")
                self._lead.give()
                continue
            if found is None:
                self._lead.give()
                return
            model, batch = found
            self._lead.give(wake=not self._is_lone(model, batch))
            try:
                while batch:  # an instance that finishes takes what waited for it
                    model.execute(batch)
                    batch = model.batcher.take(wait=False)
            except Exception:  # a bug of ours
                log.exception("computing failed")
            finally:
                self._count(-1)
            del found, model, batch  # a thread that waits holds no model: it may be unloaded meanwhile

    def _count(self, change: int) -> None:
        with self._counting:
            self._computing += change
            if not self._computing:
                self._counting.notify_all()

    def _is_lone(self, model: Computer, batch: list[QueuedRequest]) -> bool:
        """Calls come one at a time and this one takes a moment, so no follower need be woken to poll meanwhile.

        Waking one costs a part of the call's own time. Should the moment be a long one, the reserve thread polls.
        """
        alone = len(batch) == 1 and self._computing == 1 and not self._waiting
        self._lone_batches = self._lone_batches + 1 if alone else 0
        if self._lone_batches < _LONE_BATCHES:
            return False
        return 0 < model.batcher.expected_seconds(batch[0].samples) < _MOMENT_SECONDS

    def _gather(self) -> Batch | None:
        """Poll until a batch is due. None: the queue is shut down."""
        # After a lone batch, what is there already came while nobody polled.
        until: float | None = 0.0 if self._waiting or self._lone_batches >= _LONE_BATCHES else None
        missed = not self._waiting and until == 0.0
        fill_end = 0.0  # 0: it did not wait for a fuller batch yet
        while True:
            event = self._queue.next(until)
            if event.completion_type == OPERATION_DONE:
                model = self._dispatch(event)
                event = None  # grpcio wants an event gone before the next poll
                if model is not None:
                    self._waiting[model] = None
                    if missed:
                        self._lone_batches = 0
                    if model.batcher.full and (found := self._take(model)):
                        return found
                model = None  # it may be unloaded while this thread polls
                if self._waiting:
                    until = 0.0  # whatever else is there already
            elif event.completion_type == TIMED_OUT:
                missed = False
                now = time.time()
                fill_end = fill_end or now + _FILL_SECONDS
                if not until and now < fill_end and self._may_fill():
                    until = min(now + _FILL_SILENCE_SECONDS, fill_end)
                    continue
                if found := self._take_first():
                    return found
                until = self._next_due()
                fill_end = 0.0
            else:
                return None

    def _may_fill(self) -> bool:
        if not (self._computing and self._waiting):
            return False
        return self._filling.is_worth_waiting([model.batcher for model in self._waiting])

    def _take_first(self) -> Batch | None:
        for model in list(self._waiting):
            if found := self._take(model):
                return found
        return None

    def _take(self, model: Computer) -> Batch | None:
        self._count(1)  # first: once it is taken, ``close`` has to wait for it
        batch = model.batcher.take(wait=False)
        if not batch:
            self._count(-1)
        if not len(model.batcher):
            del self._waiting[model]
        return (model, batch) if batch else None

    def _next_due(self) -> float | None:
        """When a batch will be due, by the wall clock. Forgets models with nothing to wait for: what is queued while
        every instance is busy is taken by the first that finishes."""
        due = {model: model.batcher.time_to_due() for model in self._waiting}
        self._waiting = {model: None for model, seconds in due.items() if seconds is not None}
        return min((time.time() + seconds for seconds in due.values() if seconds is not None), default=None)

    def _dispatch(self, event: Any) -> Computer | None:
        tag = event.tag
        if not isinstance(tag, Tag):
            self._queue.pass_on(event)
            return None
        try:
            return tag.done(event)  # type: ignore[return-value]
        except Exception:  # a bug of ours may cost one call, never the thread that polls
            log.exception("a completion was lost")
            return None

    def _stand_by(self) -> None:
        while not self._closed.is_set():
            self._lead.vacant.wait()
            turns = self._lead.turns
            if self._closed.wait(_RESERVE_SECONDS):
                return
            if not self._lead.take_if_idle(turns):
                self._lead.rest(turns)
                continue
            self._in_reserve = True
            self._leave_to_instances()
            while not self._lead.wanted:
                event = self._queue.next(None)
                if event.completion_type != OPERATION_DONE:
                    break
                self._dispatch(event)
                event = None
                if self._refused >= _REFUSALS:
                    self._refused = 0
                    self._closed.wait(_REFUSAL_REST_SECONDS)
            self._in_reserve = False
            self._lead.give()

    def _leave_to_instances(self) -> None:
        for model in self._waiting:
            model.batcher.wake()
        self._waiting = {}

    def on_new_call(self, event: Any) -> None:
        if not event.success:  # the server is shutting down
            return
        self._server.request(self._method, self._new_call)
        call = UnaryCall(event)
        try:
            self._handler.admit(call)
            call.receive(self._on_message)
        except Exception as error:
            self._refuse(call, error)

    def _on_message(self, call: UnaryCall, message: bytes | None) -> Computer | None:
        try:
            model = self._handler.handle(call, message, wake=self._in_reserve)
        except Exception as error:
            if message is None or isinstance(error, DeadlineError):
                self._refused = _NO_REST  # calls are too old when they are read: make haste
            else:
                self._refused += isinstance(error, QueueFullError)
            self._refuse(call, error)
            return None
        self._refused = 0
        return model

    def _refuse(self, call: UnaryCall, error: Exception) -> None:
        if not call.ended:
            call.refuse(*call_status(error, self._method))


class _NewCall(Tag):
    __slots__ = ("_path",)

    def __init__(self, path: HotPath) -> None:
        self._path = path

    def done(self, event: Any) -> None:
        self._path.on_new_call(event)
