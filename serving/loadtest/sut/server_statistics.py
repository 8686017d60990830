"""What the server says of its own time: the Open Inference Protocol's statistics extension, read before and after."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc

TIMEOUT = 2.0
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ServerTimings:
    """Sums over `count` answered requests, in seconds; `batches` is how many times the network ran.

    queue: waiting for a free instance. compute_input, compute_infer, compute_output: gathering a batch, running the
    network, taking the answers apart.
    """

    count: int = 0
    batches: int = 0
    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    @classmethod
    def of(cls, statistics: pb.ModelStatistics) -> Self:
        """As the server counts them, since the model was loaded."""
        timings = statistics.inference_stats
        seconds = {part: getattr(timings, part).ns / 1e9 for part in PARTS}
        return cls(count=timings.success.count, batches=statistics.execution_count, **seconds)

    @classmethod
    def summed(cls, parts: Iterable["ServerTimings"]) -> Self:
        """Of several stretches of time."""
        every = list(parts)
        return cls(**{field.name: sum(getattr(part, field.name) for part in every) for field in fields(cls)})

    def since(self, before: "ServerTimings") -> "ServerTimings | None":
        """What came on top of `before`; None when the count went down, because the server began anew."""
        if self.count < before.count:
            return None
        return ServerTimings(**{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)})

    def mean(self, part: str) -> float:
        """Seconds that a request spent in this part on average; NaN when there was none."""
        return float(getattr(self, part)) / self.count if self.count else float("nan")


def read(
    stub: inference_pb2_grpc.GRPCInferenceServiceStub, model: str, metadata: tuple[tuple[str, str], ...] = ()
) -> ServerTimings | None:
    """The counters of a model as they stand, or None where the server keeps none or does not answer."""
    request = pb.ModelStatisticsRequest(name=model)
    try:
        answer = stub.ModelStatistics(request, timeout=TIMEOUT, metadata=metadata)
    except grpc.RpcError:
        return None
    # Without a version it answers for every version that is loaded.
    found = [ServerTimings.of(statistics) for statistics in answer.model_stats if statistics.name == model]
    return ServerTimings.summed(found) if found else None
