"""Takes every request from a transport to the engine, and the response or error back.

Every request of every transport is a `TransportCall`, which is also the entry in its model's queue. `submit` looks the
model up, lets the call's `Query` decode the request for that model, and queues the call. Therefore the subclasses of
`TransportCall`, one for each kind of call, differ only in how they send the answer.
"""

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc

from hangtag.protos.methods import CLASSIFY_STREAM, MODEL_STREAM_INFER
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import CancelledError, NotLoadedError, QueueFullError, UnavailableError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.wire.intake import Intake, Metadata, Origin

if TYPE_CHECKING:
    from hangtag.serving.server.wire.plans import Plan

LARGE_MESSAGE = 64 * 1024
"""Requests and answers of at least this many bytes are decoded and encoded on separate threads. Python converts strings
one by one, which takes a second for the largest message."""
STREAMS = (
    MODEL_STREAM_INFER,
    CLASSIFY_STREAM,
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
"""The methods whose requests or answers are a stream, which may last as long as the client wants."""


class TransportCall(Call):
    """A request that a transport received, from its arrival until its response or error."""

    intake: Intake
    method: str
    """See `Origin`, which also describes the metadata."""
    metadata: Metadata
    epoch: int
    """The engine's epoch, read before the model is looked up. If the models change after that, the engine's epoch
    differs, and a `Plan` with this epoch is invalid."""
    started: int
    """When the request arrived, by time.perf_counter_ns."""
    model_name: str = ""
    """The name in the request; empty until the request is read."""
    model_version: str = ""
    """The version in the request; empty for the default version."""
    id: str = ""
    """The request's id, for the log."""
    encode: Callable[[InferenceResult], Any]
    """Turns the model's result into the transport's response, or raises ServerError. Called only once."""
    outputs: Sequence[str] = ()
    """The outputs whose values are all sent. The response is at least as large as these outputs. May be empty."""
    plan: "Plan | None" = None

    @abstractmethod
    def respond(self, response: Any, timings: Timings) -> None:
        """Send the response that ``encode`` returned, or that the plan made."""

    @abstractmethod
    def refuse(self, error: Exception) -> None:
        """Send an error, which has been counted already."""

    @classmethod
    def send(cls, calls: "Sequence[Self]", responses: Sequence[bytes], cost: BatchCost) -> None:
        """Send the responses to calls that share a plan and were computed in one batch."""
        for call, response in zip(calls, responses, strict=True):
            call.respond(response, call.timings_of(cost))

    @classmethod
    def answer_batch(cls, calls: Sequence[Any], outputs: Tensors, cost: BatchCost) -> None:
        by_plan: defaultdict[Plan | None, list[Any]] = defaultdict(list)
        for call in calls:
            by_plan[call.plan].append(call)
        for plan, of_plan in by_plan.items():
            responses = None if plan is None else plan.responses(of_plan, outputs, cost)
            if responses is None:
                for call in of_plan:
                    call.end(call.part_of(outputs, cost))
            else:  # a subclass's ``send`` does not tell the caller which member of a route answered
                (TransportCall if cost.member else cls).send(of_plan, responses, cost)

    def answer(self, result: InferenceResult) -> None:
        outputs = result.outputs
        size = sum([outputs[name].nbytes for name in self.outputs or outputs])
        if size < LARGE_MESSAGE:
            self._respond(result)
        else:
            self.intake.decoding_threads.submit(partial(self._respond, result, size if self.outputs else 0))

    def _respond(self, result: InferenceResult, size: int = 0) -> None:
        """Encode and send the response, which has at least ``size`` bytes."""
        try:
            if size:
                self.intake.require_size("Sent", size)  # check this before the outputs are copied
            response = self.encode(result)
        except Exception as error:
            self.fail(error)
            return
        if (tracing := self.intake.tracing) is not None:
            ns = time.perf_counter_ns() - self.started
            tracing.record(self.method, self.metadata, ns, grpc.StatusCode.OK, result.timings)
        self.respond(response, result.timings)

    def fail(self, error: Exception) -> None:
        intake = self.intake
        origin = Origin(self.method, () if intake.tracing is None else self.metadata)
        intake.record_failure(origin, error, self.started, self.model_name, self.model_version)
        self.refuse(error)

    def metadata_value(self, key: str) -> str:
        values = (value for name, value in self.metadata if name == key and isinstance(value, str))
        return next(values, "")


class Query(ABC):
    """A request for one model, not decoded yet."""

    is_large = False
    """Whether decoding may take long, and may wait for memory that other large pictures use."""

    def __init__(self, model_name: str, model_version: str) -> None:
        self.model_name = model_name
        self.model_version = model_version

    @abstractmethod
    def prepare(self, model: Servable, call: TransportCall) -> None:
        """Decode the request for this version of a model. Set the call's ``inputs``, ``samples``, ``batch_key``,
        ``encode``, ``outputs`` and ``id``, and perhaps an earlier deadline. If the version is replaced in the meantime,
        this method is called again with the new version. Raises InvalidRequestError."""


Readable: TypeAlias = Query | Callable[[], Query]
"""A query, or a function that reads the request and returns its query."""


def submit(call: TransportCall, query: Readable) -> None:
    """Read a call's request, decode the request for the named model, and queue the call. An error is not raised, but
    becomes the call's outcome."""
    engine = call.intake.engine
    try:
        query = _read(call, query)
        name, version = call.model_name, call.model_version = query.model_name, query.model_version
        while True:
            call.epoch = engine.epoch
            model = engine.model(name, version)
            try:
                model.raise_if_queue_full()
                query.prepare(model, call)
                model.put(call)
            except UnavailableError:
                if engine.model(name, version) is model:
                    raise
            else:
                break
    except NotLoadedError:
        engine.residency.load(call.model_name).add_done_callback(_AwaitedLoad(call, query).finish)
    except Exception as error:
        call.fail(error)
        return
    if call.cancelled:  # the caller left while the request was decoded
        call.cancel()


class _AwaitedLoad:
    """The `Queue` of a single call while the call waits for its model to be loaded."""

    def __init__(self, call: TransportCall, query: Readable) -> None:
        # The thread that removes the call sets its outcome. If the caller leaves, the request is also freed.
        self._waiting: dict[Call, tuple[TransportCall, Readable]] = {call: (call, query)}
        call.queue = self

    def cancel(self, call: Call) -> None:
        if self._waiting.pop(call, None):
            call.end(CancelledError("the caller left before the model was loaded"))

    def finish(self, load: "Future[None]") -> None:
        """Submit the call if the load succeeded; otherwise, let the call fail with the load's error."""
        for call, query in list(self._waiting.values()):
            if not self._waiting.pop(call, None):
                continue
            if (error := load.exception()) is None:
                submit(call, query)
            elif isinstance(error, Exception):
                call.fail(error)


def submit_on_thread(calls: Sequence[TransportCall], queries: Sequence[Readable]) -> "Future[None]":
    """`submit` the calls of one request in turn, on a thread. Return a future that is done after the last `submit`.
    If max_queue_size requests already wait to be decoded, the calls fail with QueueFullError."""
    intake = calls[0].intake
    done: Future[None] = Future()

    def start() -> None:
        ready, is_large = queries, False
        with suppress(Exception):  # after an error, `submit` reads the request again, and fails the call
            ready = read = [_read(*each) for each in zip(calls, queries, strict=True)]
            is_large = any(query.is_large for query in read)
        if is_large:
            intake.threads_for_large.submit(submit_all, ready)
        else:
            submit_all(ready)

    def submit_all(ready: Sequence[Readable]) -> None:
        intake.decoding_places.release()
        try:
            for call, query in zip(calls, ready, strict=True):
                submit(call, query)
        finally:  # even if a transport raises an exception, because a stream waits for the future
            done.set_result(None)

    if intake.decoding_places.acquire(blocking=False):
        intake.decoding_threads.submit(start)
        return done
    error = QueueFullError(
        "the queue of pictures and large messages to be decoded is full (--max-queue-size); try again later with a "
        "back-off"
    )
    for call in calls:
        call.fail(error)
    done.set_result(None)
    return done


def _read(call: TransportCall, query: Readable) -> Query:
    """Return a call's query. Raises CancelledError if the caller has left."""
    if call.cancelled:
        raise CancelledError("the caller left before the request was decoded")
    return query if isinstance(query, Query) else query()
