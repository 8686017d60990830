"""Lets clients see and control the server's models: descriptions, statistics, loading and unloading."""

import asyncio
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import metadata
from typing import Any, TypeVar

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Control, Servable
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, NotLoadedError, UnavailableError
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, VersionState
from hangtag.serving.signature import TensorSpec

Result = TypeVar("Result")

_THREADS = 32  # each thread may wait for other workers, or until a model is loaded
PLATFORM = "onnxruntime_onnx"
# Long metadata of the ONNX file, needed only by the file's owner. 'hangtag models' shows this metadata.
_UNPUBLISHED_METADATA = ("training", "reference", "reference_labels", "examples")
# The only training detail published is the data set, which lets 'hangtag evaluate' find the test pictures.
_DATA_SET = ("dataset", "data_digest", "pictures", "sizes", "image", "limit")
_COMPUTE = ("compute_input", "compute_infer", "compute_output")
_EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class ModelService:
    """The methods of GRPCInferenceService that describe and control models, for gRPC and HTTP. The results of the
    repository and statistics methods cover all workers. Use this object only on the event loop."""

    def __init__(self, engine: Engine, control: Control) -> None:
        self._engine = engine
        self._control = control
        self._loading = asyncio.Lock()  # held during a load
        self._waiting: dict[str, asyncio.Task[None]] = {}  # loads that have not started, by model
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="control")

    async def ServerLive(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except NotLoadedError:  # the first call loads the model
            pass
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._engine.stopping)

    async def ServerMetadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="hangtag", version=metadata.version("hangtag"), extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = await self.model(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[each.version for each in self._engine.versions(model.name)],
            platform=PLATFORM,
            inputs=map(_tensor_metadata, model.signature.inputs),
            outputs=map(_tensor_metadata, model.signature.outputs),
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = await self.model(request.name, request.version)
        batched = model.signature.batched
        first_dim = 1 if batched else 0  # Triton's dims leave the batch axis out
        kind = pb.ModelInstanceGroup.KIND_CPU if model.on_cpu else pb.ModelInstanceGroup.KIND_GPU
        config = pb.ModelConfig(
            name=model.name,
            platform=PLATFORM,
            backend="onnxruntime",
            max_batch_size=model.max_batch_size if batched else 0,
            default_model_filename="model.onnx",
            input=[pb.ModelInput(**_tensor_config(spec, first_dim)) for spec in model.signature.inputs],
            output=[pb.ModelOutput(**_tensor_config(spec, first_dim)) for spec in model.signature.outputs],
            instance_group=[pb.ModelInstanceGroup(name=model.name, count=model.instances, kind=kind)],
            parameters={key: pb.ModelParameter(string_value=value) for key, value in _parameters(model).items()},
        )
        if batched:
            config.dynamic_batching.max_queue_delay_microseconds = round(model.max_queue_delay * 1e6)
        return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        name, version = request.name, request.version
        known = (await self.in_thread(lambda control: control.state())).versions
        states = [state for state in known if state.state == READY]
        requested = [state for state in states if name in ("", state.name) and version in ("", state.version)]
        if name and not requested:
            self._engine.model(name, version)  # raises an error if this worker does not serve the model
            raise NotFoundError(f"not every worker serves {name!r}; RepositoryIndex gives the reason")
        return pb.ModelStatisticsResponse(model_stats=[_statistics(state) for state in requested])

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)

        def listed(control: Control) -> list[VersionState]:
            states = control.state().versions
            if request.ready:
                return [state for state in states if state.state == READY]
            tried = {state.name for state in states}  # other models and routes of the repository are listed last
            others = [version for version in control.published() if version[0] not in tried]
            return [*states, *(VersionState(*version, UNAVAILABLE, "not loaded") for version in others)]

        states = await self.in_thread(listed)
        index = pb.RepositoryIndexResponse.ModelIndex
        models = [index(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in states]
        return pb.RepositoryIndexResponse(models=models)

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load a model, even if the caller disconnects meanwhile. Calls for one model share the model's next load, so
        that callers that disconnect and call again cannot queue many loads. A load that has started is not shared,
        because it may have read the files before a later caller changed them."""
        _require_unnamed_repository(request.repository_name)
        require_no_parameters(request.parameters)
        name = request.model_name
        if name not in self._waiting:
            self._waiting[name] = asyncio.create_task(self._load(name))
        await _shielded(self._waiting[name])
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        await self.in_thread(lambda control: control.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def model(self, name: str, version: str = "") -> Servable:
        """Return the model that takes requests for a name and version, after loading it if necessary."""
        while True:
            try:
                return self._engine.model(name, version)
            except NotLoadedError:
                await _shielded(asyncio.wrap_future(self._engine.residency.load(name)))

    async def in_thread(self, work: Callable[[Control], Result]) -> Result:
        """Do ``work``, which may block, on another thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._control)

    def close(self) -> None:
        """End each thread once it is idle."""
        self._threads.shutdown(wait=False)

    async def _load(self, name: str) -> None:
        async with self._loading:
            del self._waiting[name]
            await self.in_thread(lambda control: control.load(name))


def _shielded(load: "asyncio.Future[None]") -> "asyncio.Future[None]":
    """Let a load continue if its caller disconnects. Retrieve the task's exception, so that asyncio does not log it."""
    load.add_done_callback(lambda ended: ended.exception())
    return asyncio.shield(load)


def require_no_parameters(parameters: Iterable[str]) -> None:
    for parameter in parameters:
        raise InvalidRequestError(
            f"parameter {parameter!r} is not supported, because a model is loaded without changes to its file"
        )


def _require_unnamed_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"there is no repository {name!r}: this server's only repository has no name")


def _statistics(state: VersionState) -> pb.ModelStatistics:
    counters = state.counters
    return pb.ModelStatistics(
        name=state.name,
        version=state.version,
        last_inference=counters.last_inference_ms,
        inference_count=counters.inference_count,
        execution_count=counters.execution_count,
        inference_stats=pb.InferStatistics(**_durations(counters, "success", "fail", "queue", *_COMPUTE)),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, **_durations(batches, *_COMPUTE))
            for size, batches in sorted(counters.batches.items())
        ],
    )


def _parameters(model: Servable) -> dict[str, str]:
    signature = model.signature
    metadata_of_file = signature.metadata.items()
    published = {f"hangtag.{key}": value for key, value in metadata_of_file if key not in _UNPUBLISHED_METADATA}
    if (data_set := _data_set(signature.metadata.get("training", ""))) is not None:
        published["hangtag.training"] = data_set
    if signature.image is not None:  # files of earlier releases lack this key
        published["hangtag.image"] = json.dumps(signature.image.as_json())
    if signature.picture_shape is not None:
        published["classifies_images"] = "true"
    return published | dict(model.parameters())


@lru_cache(maxsize=64)
def _data_set(training: str) -> str | None:
    """Return the metadata ``training``, reduced to the data set; None if there is no data set."""
    try:
        config = json.loads(training)["config"]
        return json.dumps({"config": {key: config[key] for key in _DATA_SET if key in config}})
    except (ValueError, TypeError, KeyError, RecursionError):  # a third-party file
        return None


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.wire_shape)


def _tensor_config(spec: TensorSpec, first_dim: int) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": spec.wire_shape[first_dim:]}


def _durations(counters: object, *steps: str) -> dict[str, pb.StatisticDuration]:
    durations = {step: getattr(counters, step) for step in steps}
    return {step: pb.StatisticDuration(count=each.count, ns=each.ns) for step, each in durations.items()}
