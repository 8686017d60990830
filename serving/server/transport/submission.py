"""A request that is put into a model's queue, and read once it is answered: for calls that ask more than once."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import grpc

from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.transport.deadline import deadline_of
from hangtag.serving.server.transport.lookup import with_model
from hangtag.serving.server.transport.status import status_code

Response = TypeVar("Response")


@dataclass(frozen=True)
class Asked(Generic[Response]):
    """A request in a queue. ``read`` makes the response of its answer, and may raise ServerError."""

    cancel: Callable[[], None]
    read: Callable[[InferenceResult], Response]


Ask: TypeAlias = Callable[[OnComplete, float | None], Asked[Response]]
"""Puts a request into its model's queue, with a deadline on the monotonic clock; raises ServerError instead."""

AskModel: TypeAlias = Callable[[ServedModel, OnComplete, float | None], Asked[Response]]
"""The same of a certain model."""


def asking(engine: Engine, name: str, version: str, ask: AskModel[Response]) -> Ask[Response]:
    """Asks the model of this name and version, or its successor; what fails is counted, as for a call of its own."""

    def ask_and_count(on_complete: OnComplete, deadline: float | None) -> Asked[Response]:
        started = time.perf_counter_ns()

        def count(error: Exception) -> None:
            engine.record_failure(name, version, status_code(error).name, time.perf_counter_ns() - started)

        def done(outcome: InferenceResult | ServerError) -> None:
            if isinstance(outcome, ServerError):
                count(outcome)
            on_complete(outcome)

        def read(answer: InferenceResult) -> Response:
            try:
                return asked.read(answer)
            except Exception as error:
                count(error)
                raise

        try:
            asked = with_model(engine, name, version, lambda model: ask(model, done, deadline))
        except Exception as error:
            count(error)
            raise
        return Asked(asked.cancel, read)

    return ask_and_count


def ask_all(asks: Sequence[Ask[Response]], context: grpc.ServicerContext) -> list[Response | Exception]:
    """Every response, or why there is none, in the order of the asks; all are queued before the first is waited for."""
    deadline = deadline_of(context)
    done: queue.SimpleQueue[tuple[int, InferenceResult | ServerError]] = queue.SimpleQueue()
    asked: dict[int, Asked[Response]] = {}
    responses: dict[int, Response | Exception] = {}
    for place, ask in enumerate(asks):
        try:
            asked[place] = ask(lambda outcome, place=place: done.put((place, outcome)), deadline)  # type: ignore[misc]
        except Exception as error:
            responses[place] = error

    def cancel() -> None:
        for one in asked.values():
            one.cancel()

    if not context.add_callback(cancel):  # the call has ended already
        cancel()
    for _ in asked:
        place, outcome = done.get()
        response = response_of(asked[place], outcome)
        responses[place] = response
    return [responses[place] for place in range(len(asks))]


def response_of(asked: Asked[Response], outcome: InferenceResult | ServerError) -> Response | Exception:
    """The response of an answer, or why there is none."""
    if isinstance(outcome, ServerError):
        return outcome
    try:
        return asked.read(outcome)
    except Exception as error:
        return error
