"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions.

Each method translates its message, calls the engine or the model control, and translates the answer. Errors leave as
domain errors; `Handlers` gives them their status.

Methods that may block run on threads, because they would hold up the event loop: those of the statistics and the index
ask other processes and read the repository, and loading takes long.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from typing import TypeVar

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import Control
from hangtag.serving.server.engine.single_flight import SingleFlight
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, VersionState
from hangtag.serving.server.transport.codec import LARGE_MESSAGE
from hangtag.serving.server.transport.grpc.calls import Context, Queries, describe_call
from hangtag.serving.server.transport.grpc.handlers import abort
from hangtag.serving.server.transport.grpc.streams.infer_stream import answer_stream
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.transport.model_messages import (
    model_config,
    model_index,
    model_metadata,
    model_statistics,
)
from hangtag.serving.server.transport.queries.infer_message import InferMessageQuery
from hangtag.serving.server.transport.queries.infer_query import InferQuery
from hangtag.serving.server.transport.queries.request_templates import RequestTemplates
from hangtag.serving.server.transport.submission import failures_recorded
from hangtag.serving.server.transport.tracing import Tracing

Result = TypeVar("Result")

_THREADS = 32  # that may wait for other workers or for a load at once
EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class InferenceService:
    """The protocol's methods. Those of the repository and the statistics answer for all workers of the server."""

    def __init__(
        self,
        engine: Engine,
        control: Control,
        queries: Queries,
        streams: OpenStreams,
        tracing: Tracing | None = None,
    ) -> None:
        """Serve the models of an engine.

        Args:
            engine: This process' models, which answer inference.
            control: Loads, unloads and describes models, of all workers where there are several.
            queries: Submits ModelInfer.
            streams: Answers ModelStreamInfer.
            tracing: Gets a span for each query; None records none.
        """
        self._engine = engine
        self._control = control
        self._queries = queries
        self._streams = streams
        self._tracing = tracing
        self._templates = RequestTemplates()
        self._loads = SingleFlight()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc-control")

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="hangtag", version=metadata.version("hangtag"), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = self._engine.model(request.name, request.version)
        return model_metadata(model, self._engine.versions(model.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(self._engine.model(request.name, request.version)))

    async def ModelInfer(self, message: bytes, context: Context) -> bytes:
        """Answer ModelInfer from bytes to bytes."""
        request = None
        call = describe_call(MODEL_INFER, context, self._tracing)
        try:
            with failures_recorded(self._engine, call):
                query = InferMessageQuery(message, call, self._templates)
            request = query.request
            if query.is_known or len(message) < LARGE_MESSAGE:
                return await self._queries.answer(query, context)
            response = await self._queries.answer(InferQuery(request, call), context, in_thread=True)
            return response.SerializeToString()
        except Exception as error:
            await abort(error, MODEL_INFER, request, context)

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        await answer_stream(self._streams, requests, context, describe_call(MODEL_STREAM_INFER, context, self._tracing))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)
        states = await self._in_thread(_ready if request.ready else _known)
        return pb.RepositoryIndexResponse(models=[model_index(state) for state in states])

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        _require_unnamed_repository(request.repository_name)
        if request.parameters:
            name = next(iter(request.parameters))
            raise InvalidRequestError(f"parameter {name!r} is not supported: a model is loaded as its file is")
        # Calls for one model share its next load, so that callers who come and leave cannot pile up loads. A load goes
        # on when its caller has left.
        load = self._loads.do(request.model_name, partial(self._control.load, request.model_name))
        await asyncio.shield(asyncio.wrap_future(load))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        await self._in_thread(lambda control: control.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        states = _requested(await self._in_thread(_ready), request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[model_statistics(state) for state in states])

    def close(self) -> None:
        """End the threads, once they are idle."""
        self._loads.close()
        self._threads.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[Control], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._control)


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
