"""What a query cost, and for a route which of its members answered, as the trailing metadata of its call."""

from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings

QUEUE_NS, COMPUTE_NS, BATCH_SIZE = "hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"
MODEL, STAGE = "hangtag-model", "hangtag-stage"
"""Of a route: the members whose answers the samples have; and the stage, from 1, that answered each sample, or one
value where all have the same."""
STAGES = "hangtag-stages"
"""Of a route: what each stage cost, MEMBER;samples=N;queue-ns=N;compute-ns=N;batch-size=N with a comma between them."""
UNSURE = "hangtag-unsure"
"""Of a cascade: how many samples have the answer of a member that was not sure, since the next one had no time
or no place for them."""
_MAX_LISTED = 1024
"""Samples of a request from which on no stage is listed for each, because clients bound the size of metadata."""


def cost_metadata(timings: Timings) -> tuple[tuple[str, str], ...]:
    """Return a query's cost as metadata, which clients and traces read."""
    cost = ((QUEUE_NS, str(timings.queue_ns)), *batch_metadata(timings))
    return cost if not timings.stages else (*cost, *route_metadata(timings))


def batch_metadata(cost: BatchCost | Timings) -> tuple[tuple[str, str], ...]:
    """Return the part of `cost_metadata` that all calls of a batch have in common."""
    return ((COMPUTE_NS, str(cost.compute_ns)), (BATCH_SIZE, str(cost.batch_size)))


def route_metadata(timings: Timings) -> list[tuple[str, str]]:
    """Return the part of a query's cost that says which members of a route answered; empty where a model did."""
    if not timings.stages:
        return []
    if len(timings.stages) == 1:
        members, numbers = [timings.stages[0].member], [1]
    else:
        answered = dict.fromkeys(timings.stages[0].rows, 1)
        for number, stage in enumerate(timings.stages[1:], start=2):
            answered.update(dict.fromkeys(stage.rows, number))
        numbers = list(answered.values())
        members = [timings.stages[number - 1].member for number in sorted(set(numbers))]
        if len(members) == 1:
            del numbers[1:]
    costs = [
        f"{stage.member};samples={len(stage.rows)};queue-ns={stage.queue_ns};compute-ns={stage.compute_ns};"
        f"batch-size={stage.batch_size}"
        for stage in timings.stages
    ]
    metadata = [
        (MODEL, ",".join(members)),
        (STAGE, ",".join(map(str, numbers)) if len(numbers) <= _MAX_LISTED else "several"),
        (STAGES, ",".join(costs)),
    ]
    return [*metadata, (UNSURE, str(timings.unsure))] if timings.unsure else metadata
