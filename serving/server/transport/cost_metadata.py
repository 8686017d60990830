"""What a query cost, as the trailing metadata of its call."""

from collections.abc import Iterable

from hangtag.serving.server.telemetry.model_statistics import Timings

QUEUE_NS, COMPUTE_NS, BATCH_SIZE = "hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"


def cost_metadata(timings: Timings) -> tuple[tuple[str, str], ...]:
    """Return a query's cost as metadata, which clients and traces read."""
    return (
        (QUEUE_NS, str(timings.queue_ns)),
        (COMPUTE_NS, str(timings.compute_ns)),
        (BATCH_SIZE, str(timings.batch_size)),
    )


def parse_cost(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, int]:
    """Return the costs in a call's trailing metadata, by key."""
    return {key: int(value) for key, value in metadata if key in (QUEUE_NS, COMPUTE_NS, BATCH_SIZE)}
