"""Reads the server's own counters of a model: the statistics extension of the Open Inference Protocol."""

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection.connect import Connection
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import Method
from hangtag.serving.loadtest.statistics.server_timings import PARTS, ServerTimings

TIMEOUT = 2.0  # Seconds.
_STATISTICS = Method("/inference.GRPCInferenceService/ModelStatistics", pb.ModelStatisticsResponse)


def read(connection: Connection, model: str, version: str = "") -> ServerTimings | None:
    """The counters of a model, or of one version of it, since it was loaded.

    None where the server keeps no statistics or does not answer.
    """
    try:
        response = connection.call(_STATISTICS, pb.ModelStatisticsRequest(name=model, version=version), TIMEOUT)
    except ClientError:
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
