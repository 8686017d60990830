"""What a query cost, as the trailing metadata of its call."""

from hangtag.serving.server.telemetry.model_statistics import Timings

QUEUE_NS, COMPUTE_NS, BATCH_SIZE = "hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"


def cost_metadata(timings: Timings) -> tuple[tuple[str, str], ...]:
    """Return a query's cost as metadata, which clients and traces read."""
    return (
        (QUEUE_NS, str(timings.queue_ns)),
        (COMPUTE_NS, str(timings.compute_ns)),
        (BATCH_SIZE, str(timings.batch_size)),
    )
