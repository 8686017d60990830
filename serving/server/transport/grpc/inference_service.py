"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions.

Each method translates its message, calls the engine or the model control, and translates the answer. Errors leave as
domain errors; `Handlers` gives them their status.
"""

from collections.abc import AsyncIterator, Callable

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.transport.call import LARGE_MESSAGE, failures_recorded
from hangtag.serving.server.transport.grpc.calls import Context, call_deadline, describe_call, set_cost
from hangtag.serving.server.transport.grpc.handlers import abort
from hangtag.serving.server.transport.grpc.streams.infer_stream import answer_stream
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.transport.queries.infer_query import InferQuery, infer_query, serialized
from hangtag.serving.server.transport.queries.loop_calls import LoopCalls
from hangtag.serving.server.transport.queries.plans import Plans
from hangtag.serving.server.transport.repository.model_messages import (
    model_config,
    model_index,
    model_metadata,
    model_statistics,
    server_metadata,
)
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls
from hangtag.serving.server.transport.tracing import Tracing


class InferenceService:
    """The protocol's methods. Those of the repository and the statistics answer for all workers of the server."""

    def __init__(
        self,
        engine: Engine,
        repository: RepositoryCalls,
        calls: LoopCalls,
        streams: OpenStreams,
        stopping: Callable[[], bool],
        tracing: Tracing | None = None,
    ) -> None:
        """Serve the models of an engine.

        Args:
            engine: This process' models, which answer inference.
            repository: Loads, unloads and describes models, of all workers where there are several.
            calls: Submits ModelInfer.
            streams: Answers ModelStreamInfer.
            stopping: Whether the server takes no new requests, and so neither it nor a model is ready.
            tracing: Gets a span for each query; None records none.
        """
        self._engine = engine
        self._repository = repository
        self._calls = calls
        self._streams = streams
        self._stopping = stopping
        self._tracing = tracing
        self._plans = Plans(engine)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready and not self._stopping())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._stopping())

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = self._engine.model(request.name, request.version)
        return model_metadata(model, self._engine.versions(model.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(self._engine.model(request.name, request.version)))

    async def ModelInfer(self, message: bytes, context: Context) -> bytes:
        """Answer ModelInfer from bytes to bytes."""
        request = None
        origin = describe_call(MODEL_INFER, context, self._tracing)
        try:
            with failures_recorded(self._engine, origin):
                query = infer_query(message, self._plans)
            request = query.request
            in_thread = isinstance(query, InferQuery) and len(message) >= LARGE_MESSAGE
            response, timings = await self._calls.answer(query, origin, call_deadline(context), in_thread=in_thread)
        except Exception as error:
            await abort(error, MODEL_INFER, request, context)
        set_cost(context, timings)
        return serialized(response)

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        await answer_stream(self._streams, requests, context, describe_call(MODEL_STREAM_INFER, context, self._tracing))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)
        states = await self._repository.index(ready=request.ready)
        return pb.RepositoryIndexResponse(models=[model_index(state) for state in states])

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        _require_unnamed_repository(request.repository_name)
        if request.parameters:
            name = next(iter(request.parameters))
            raise InvalidRequestError(f"parameter {name!r} is not supported: a model is loaded as its file is")
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        states = await self._repository.statistics(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[model_statistics(state) for state in states])


def _require_unnamed_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"there is no repository {name!r}: this server has one, without a name")
