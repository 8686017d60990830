"""Those methods of the Open Inference Protocol that concern the server as a whole: the repository and the statistics.

With several workers, any of them answers for all.
"""

from collections.abc import Iterable

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.engine.model_control import Control
from hangtag.serving.server.engine.single_flight import SingleFlight
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError
from hangtag.serving.server.telemetry.model_statistics import Duration
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, VersionState
from hangtag.serving.server.transport.status import answers_errors


class RepositoryMethods:
    """A part of InferenceService."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._loads = SingleFlight()

    @answers_errors
    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _require_no_repository(request.repository_name)
        found = self._control.state().versions
        told = [one for one in found if one.state == READY] if request.ready else [*found, *self._not_loaded(found)]
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=one.name, version=one.version, state=one.state, reason=one.reason
                )
                for one in told
            ]
        )

    def _not_loaded(self, found: Iterable[VersionState]) -> list[VersionState]:
        """Models of the repository that nobody has asked for: the protocol lists what could be loaded."""
        known = {one.name for one in found}
        return [
            VersionState(file.name, str(file.version), UNAVAILABLE, "not loaded")
            for file in self._control.published()
            if file.name not in known
        ]

    @answers_errors
    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        _require_no_repository(request.repository_name)
        if request.parameters:
            raise InvalidRequestError(
                f"parameter {next(iter(request.parameters))!r} is not known here: a model is loaded as its file is"
            )
        name = request.model_name
        # A load goes on when its caller has left. However many call, no more than one of each model waits for its turn.
        self._loads.do(name, lambda: self._control.load(name))
        return pb.RepositoryModelLoadResponse()

    @answers_errors
    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _require_no_repository(request.repository_name)
        self._control.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    @answers_errors
    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        served = [one for one in self._control.state().versions if one.state == READY]
        asked = [one for one in served if request.name in ("", one.name) and request.version in ("", one.version)]
        if request.name and not asked:
            raise NotFoundError(_not_served(request, served))
        return pb.ModelStatisticsResponse(model_stats=[_statistics(one) for one in asked])


def _require_no_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"there is no repository {name!r}: this server has one, without a name")


def _not_served(request: pb.ModelStatisticsRequest, served: list[VersionState]) -> str:
    versions = ", ".join(one.version for one in served if one.name == request.name)
    if versions:
        return f"version {request.version!r} of {request.name!r} is not served here; served: {versions}"
    names = ", ".join(dict.fromkeys(one.name for one in served)) or "none"
    return f"no model {request.name!r} is served here; served: {names}"


def _statistics(state: VersionState) -> pb.ModelStatistics:
    counters = state.counters
    return pb.ModelStatistics(
        name=state.name,
        version=state.version,
        last_inference=counters.last_inference_ms,
        inference_count=counters.inference_count,
        execution_count=counters.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counters.success),
            fail=_duration(counters.fail),
            queue=_duration(counters.queue),
            compute_input=_duration(counters.compute_input),
            compute_infer=_duration(counters.compute_infer),
            compute_output=_duration(counters.compute_output),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(batches.compute_input),
                compute_infer=_duration(batches.compute_infer),
                compute_output=_duration(batches.compute_output),
            )
            for size, batches in sorted(counters.batches.items())
        ],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
