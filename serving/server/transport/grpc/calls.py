"""Wait for the outcome of queries inside a gRPC call: the handler's thread submits them and waits."""

import queue
import time
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import grpc

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.transport.cost_metadata import cost_metadata
from hangtag.serving.server.transport.submission import Call, Outcome, Query, submit
from hangtag.serving.server.transport.tracing import Tracing

Response = TypeVar("Response")


def describe_call(method: str, context: grpc.ServicerContext, tracing: Tracing | None) -> Call:
    """Return what telemetry needs to know of a call."""
    return Call(method, tuple(context.invocation_metadata()), tracing)


def call_deadline(context: grpc.ServicerContext) -> float | None:
    """Return the call's deadline on the monotonic clock, in seconds; None when the caller has set none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def infer(engine: Engine, query: Query[Response], context: grpc.ServicerContext) -> Response:
    """Return the response to one query; its cost becomes the call's trailing metadata.

    Raises:
        ServerError: The query was refused, dropped, or failed.
    """
    (outcome,) = infer_all(engine, [query], context)
    if outcome.timings is not None:
        context.set_trailing_metadata(cost_metadata(outcome.timings))
    return outcome.response()


def infer_all(
    engine: Engine, queries: Sequence[Query[Response]], context: grpc.ServicerContext
) -> list[Outcome[Response]]:
    """Return the outcome of each query, in their order. All are queued before the first is waited for.

    The call's deadline is the deadline of every query, and the end of the call cancels them all.
    """
    deadline = call_deadline(context)
    completed: queue.SimpleQueue[tuple[int, Outcome[Response]]] = queue.SimpleQueue()

    def reply(place: int, outcome: Outcome[Response]) -> None:
        completed.put((place, outcome))

    cancels = [submit(engine, query, partial(reply, place), deadline) for place, query in enumerate(queries)]

    def cancel_all() -> None:
        for cancel in cancels:
            cancel()

    if not context.add_callback(cancel_all):  # the call has ended already
        cancel_all()
    outcomes = dict(completed.get() for _ in queries)
    return [outcomes[place] for place in range(len(queries))]
