"""Reads the server's own counters of a model: the statistics extension of the Open Inference Protocol."""

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.loadtest.statistics.server_timings import PARTS, ServerTimings

TIMEOUT = 2.0  # Seconds.


def read(
    stub: inference_pb2_grpc.GRPCInferenceServiceStub,
    model: str,
    version: str = "",
    metadata: tuple[tuple[str, str], ...] = (),
) -> ServerTimings | None:
    """The counters of a model, or of one version of it, since it was loaded.

    None where the server keeps no statistics or does not answer.
    """
    request = pb.ModelStatisticsRequest(name=model, version=version)
    try:
        response = stub.ModelStatistics(request, timeout=TIMEOUT, metadata=metadata)
    except grpc.RpcError:
        return None
    # A request without a version is answered for every loaded version.
    versions = [
        _timings(statistics)
        for statistics in response.model_stats
        if statistics.name == model and version in ("", statistics.version)
    ]
    return ServerTimings.summed(versions) if versions else None


def _timings(statistics: pb.ModelStatistics) -> ServerTimings:
    timings = statistics.inference_stats
    seconds = {part: getattr(timings, part).ns / 1e9 for part in PARTS}
    return ServerTimings(count=timings.success.count, batches=statistics.execution_count, **seconds)
