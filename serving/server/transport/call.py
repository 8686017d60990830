"""One call on grpcio's ordinary path: its handler thread submits the request and waits for the answer."""

import queue
import time
from collections.abc import Mapping

import grpc

from serving.server.batcher import Answer, Tensors
from serving.server.errors import ServerError
from serving.server.model import ServedModel


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
    return result
