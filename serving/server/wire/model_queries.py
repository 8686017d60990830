"""Lets clients see and control the server's models: descriptions, statistics, loading and unloading."""

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib import metadata
from typing import Any, TypeVar

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.engine.servable import Control, Servable
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, VersionState
from hangtag.serving.signature import TensorSpec

Result = TypeVar("Result")

_THREADS = 32  # each thread may wait for other workers or for a load
PLATFORM = "onnxruntime_onnx"
# Long metadata of the ONNX file, needed only by the file's owner. 'hangtag models' shows this metadata.
_UNPUBLISHED_METADATA = ("training", "reference", "reference_labels", "examples")
# The only training detail published is the data set, which lets 'hangtag evaluate' find the test pictures.
_DATA_SET = ("dataset", "data_digest", "pictures", "sizes", "image", "limit")


class RepositoryCalls:
    """Coroutines for the event loop, which all transports share."""

    def __init__(self, control: Control) -> None:
        """``control`` loads, unloads and describes the models of all workers."""
        self._control = control
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load-calls")
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}  # loads that have not started, by model
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="control")

    async def index(self, *, ready: bool) -> pb.RepositoryIndexResponse:
        """Return every version that serves. If ``ready`` is false, also return the versions that do not serve."""

        def listed(control: Control) -> list[VersionState]:
            states = control.state().versions
            if ready:
                return [state for state in states if state.state == READY]
            tried = {state.name for state in states}  # the other models and routes of the repository follow
            others = [version for version in control.published() if version[0] not in tried]
            return [*states, *(VersionState(*version, UNAVAILABLE, "not loaded") for version in others)]

        states = await self.in_thread(listed)
        index = pb.RepositoryIndexResponse.ModelIndex
        models = [index(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in states]
        return pb.RepositoryIndexResponse(models=models)

    async def statistics(self, name: str = "", version: str = "") -> pb.ModelStatisticsResponse:
        """Return the statistics of every version that serves, or only those of the given model or version. Raises
        NotFoundError if the model or the version is not served."""
        known = (await self.in_thread(lambda control: control.state())).versions
        states = [state for state in known if state.state == READY]
        requested = [state for state in states if name in ("", state.name) and version in ("", state.version)]
        if name and not requested:
            versions = ", ".join(state.version for state in states if state.name == name)
            if versions:
                raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {versions}")
            names = ", ".join(dict.fromkeys(state.name for state in states)) or "none"
            raise NotFoundError(f"Request for unknown model: {name!r} is not served here; served: {names}")
        return pb.ModelStatisticsResponse(model_stats=[_statistics(state) for state in requested])

    async def load(self, name: str, parameters: Collection[str] = ()) -> None:
        """Load a model. Raises the errors of `Control.load`, and InvalidRequestError if there is any parameter.

        Calls for one model share the model's next load, so that callers that leave and call again cannot queue many
        loads. A load that has started is not shared, because it may have read the files before a later caller changed
        them. A load continues when its caller has left.
        """
        if parameters:
            first = next(iter(parameters))
            raise InvalidRequestError(
                f"parameter {first!r} is not supported, because a model is loaded without changes to its file"
            )
        with self._lock:
            if name not in self._waiting:
                self._waiting[name] = self._loader.submit(self._load, name)
            load = self._waiting[name]
        await asyncio.shield(asyncio.wrap_future(load))

    async def unload(self, name: str) -> None:
        """Take a model out of service. Raises the errors of `Control.unload`."""
        await self.in_thread(lambda control: control.unload(name))

    async def in_thread(self, work: Callable[[Control], Result]) -> Result:
        """Run ``work``, which may block, on a thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._control)

    def close(self) -> None:
        """End each thread once it is idle. Loads that wait for the thread are still executed."""
        self._loader.shutdown(wait=False)
        self._threads.shutdown(wait=False)

    def _load(self, name: str) -> None:
        with self._lock:
            del self._waiting[name]
        self._control.load(name)


_COMPUTE = ("compute_input", "compute_infer", "compute_output")
_EXTENSIONS = ("model_configuration", "model_repository", "statistics")


def server_metadata(*more_extensions: str) -> pb.ServerMetadataResponse:
    """Describe the server. ``more_extensions`` are protocol extensions that only the calling transport supports."""
    return pb.ServerMetadataResponse(
        name="hangtag", version=metadata.version("hangtag"), extensions=[*_EXTENSIONS, *more_extensions]
    )


def model_metadata(model: Servable, versions: Sequence[Servable]) -> pb.ModelMetadataResponse:
    """Describe a model's tensors. ``versions`` has all served versions. The first version gets the requests that name
    no version."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[each.version for each in versions],
        platform=PLATFORM,
        inputs=map(_tensor_metadata, model.signature.inputs),
        outputs=map(_tensor_metadata, model.signature.outputs),
    )


def model_config(model: Servable) -> pb.ModelConfig:
    """Describe how the server runs a model, in the fields of Triton's configuration."""
    batched = model.signature.batched
    first_dim = 1 if batched else 0  # Triton's dims leave the batch axis out
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=model.max_batch_size if batched else 0,
        default_model_filename="model.onnx",
        input=[pb.ModelInput(**_tensor_config(spec, first_dim)) for spec in model.signature.inputs],
        output=[pb.ModelOutput(**_tensor_config(spec, first_dim)) for spec in model.signature.outputs],
        instance_group=[
            pb.ModelInstanceGroup(
                name=model.name,
                count=model.instances,
                kind=pb.ModelInstanceGroup.KIND_CPU if model.on_cpu else pb.ModelInstanceGroup.KIND_GPU,
            )
        ],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in _parameters(model).items()},
    )
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = round(model.max_queue_delay * 1e6)
    return config


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
    published = {
        f"hangtag.{key}": value for key, value in signature.metadata.items() if key not in _UNPUBLISHED_METADATA
    }
    if (data_set := _data_set(signature.metadata.get("training", ""))) is not None:
        published["hangtag.training"] = data_set
    if signature.image is not None:  # files of earlier releases lack this key
        published["hangtag.image"] = json.dumps(signature.image.as_json())
    if signature.picture_shape is not None:
        published["classifies_images"] = "true"
    return published | dict(model.parameters())


@lru_cache(maxsize=64)
def _data_set(training: str) -> str | None:
    """Return the metadata ``training``, reduced to the name of the data set, or None if it names no data set."""
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
