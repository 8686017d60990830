"""One call on grpcio's ordinary path: its handler thread submits the request and waits for the answer."""

import queue
from collections.abc import Mapping

import grpc

from hangtag.serving.server.batching.request import InferenceResult, Tensors
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.model_statistics import Timings

QUEUE_NS, COMPUTE_NS, BATCH_SIZE = "hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"


def cost(timings: Timings) -> tuple[tuple[str, str], ...]:
    """What a request cost, as its reply's trailing metadata."""
    return (
        (QUEUE_NS, str(timings.queue_ns)),
        (COMPUTE_NS, str(timings.compute_ns)),
        (BATCH_SIZE, str(timings.batch_size)),
    )


def infer(
    model: ServedModel,
    inputs: Tensors,
    datatypes: Mapping[str, str],
    context: grpc.ServicerContext,
    deadline: float | None,
) -> InferenceResult:
    """The model's answer, within the deadline and only while the caller is there. Raises ServerError."""
    outcome: queue.SimpleQueue[InferenceResult | ServerError] = queue.SimpleQueue()
    entry = model.submit(inputs, datatypes, outcome.put, deadline)
    if not context.add_callback(lambda: model.cancel(entry)):  # the call has ended already
        model.cancel(entry)
    result = outcome.get()
    if isinstance(result, ServerError):
        raise result
    context.set_trailing_metadata(cost(result.timings))
    return result
