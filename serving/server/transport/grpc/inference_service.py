"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions.

Each method translates its message, calls the engine or the model control, and translates the answer. Errors leave as
domain errors; `ErrorInterceptor` gives them their status.
"""

from collections.abc import Iterator
from importlib import metadata

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import Control
from hangtag.serving.server.engine.single_flight import SingleFlight
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, VersionState
from hangtag.serving.server.transport.grpc.calls import describe_call, infer
from hangtag.serving.server.transport.grpc.streams.infer_stream import answer_stream
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.transport.model_messages import (
    model_config,
    model_index,
    model_metadata,
    model_statistics,
)
from hangtag.serving.server.transport.queries.infer_query import InferQuery
from hangtag.serving.server.transport.tracing import Tracing

EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class InferenceService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The protocol's methods. Those of the repository and the statistics answer for all workers of the server."""

    def __init__(self, engine: Engine, control: Control, streams: OpenStreams, tracing: Tracing | None = None) -> None:
        """Serve the models of an engine.

        Args:
            engine: This process' models, which answer inference.
            control: Loads, unloads and describes models, of all workers where there are several.
            streams: Answers ModelStreamInfer.
            tracing: Gets a span for each query; None records none.
        """
        self._engine = engine
        self._control = control
        self._streams = streams
        self._tracing = tracing
        self._loads = SingleFlight()

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="hangtag", version=metadata.version("hangtag"), extensions=EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        model = self._engine.model(request.name, request.version)
        return model_metadata(model, self._engine.versions(model.name))

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(self._engine.model(request.name, request.version)))

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        return infer(self._engine, InferQuery(request, describe_call(MODEL_INFER, context, self._tracing)), context)

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        call = describe_call(MODEL_STREAM_INFER, context, self._tracing)
        return answer_stream(self._streams, request_iterator, context, call)

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)
        states = _ready(self._control) if request.ready else _known(self._control)
        return pb.RepositoryIndexResponse(models=[model_index(state) for state in states])

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        _require_unnamed_repository(request.repository_name)
        if request.parameters:
            name = next(iter(request.parameters))
            raise InvalidRequestError(f"parameter {name!r} is not supported: a model is loaded as its file is")
        # A load goes on when its caller has left. Calls for one model share its next load, so that callers who come and
        # leave cannot pile up loads.
        self._loads.do(request.model_name, lambda: self._control.load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        self._control.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        states = _requested(_ready(self._control), request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[model_statistics(state) for state in states])


def _require_unnamed_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"there is no repository {name!r}: this server has one, without a name")


def _ready(control: Control) -> list[VersionState]:
    return [state for state in control.state().versions if state.state == READY]


def _known(control: Control) -> list[VersionState]:
    """Every version that was loaded or tried, then the models of the repository that could be loaded."""
    states = control.state().versions
    tried = {state.name for state in states}
    not_loaded = [
        VersionState(file.name, str(file.version), UNAVAILABLE, "not loaded")
        for file in control.published()
        if file.name not in tried
    ]
    return [*states, *not_loaded]


def _requested(states: list[VersionState], name: str, version: str) -> list[VersionState]:
    """The states of this model and version, or of all where these are empty. Raises NotFoundError."""
    requested = [state for state in states if name in ("", state.name) and version in ("", state.version)]
    if not name or requested:
        return requested
    versions = ", ".join(state.version for state in states if state.name == name)
    if versions:
        raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {versions}")
    names = ", ".join(dict.fromkeys(state.name for state in states)) or "none"
    raise NotFoundError(f"no model {name!r} is served here; served: {names}")
