"""One call on grpcio's ordinary path: its handler thread submits the request and waits for the answer."""

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import grpc

from serving.server.batcher import Answer, Tensors, Timings
from serving.server.errors import ServerError
from serving.server.model import ServedModel

Authorise: TypeAlias = Callable[[Sequence[tuple[str, str | bytes]]], None]
"""Given a call's metadata, raises UnauthenticatedError for who may not call."""


def cost(timings: Timings) -> tuple[tuple[str, str], ...]:
    """What a request cost, as its reply's trailing metadata."""
    return (
        ("hangtag-queue-ns", str(timings.queue_ns)),
        ("hangtag-compute-ns", str(timings.compute_ns)),
        ("hangtag-batch-size", str(timings.batch_size)),
    )


def infer(model: ServedModel, inputs: Tensors, datatypes: Mapping[str, str], context: grpc.ServicerContext) -> Answer:
    """The model's answer, within the caller's deadline and only while the caller is there. Raises ServerError."""
    outcome: queue.SimpleQueue[Answer | ServerError] = queue.SimpleQueue()
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    entry = model.submit(inputs, datatypes, outcome.put, deadline)
    if not context.add_callback(lambda: model.cancel(entry)):  # the call has ended already
        model.cancel(entry)
    result = outcome.get()
    if isinstance(result, ServerError):
        raise result
    context.set_trailing_metadata(cost(result.timings))
    return result
