"""The Open Inference Protocol's messages about the server and its models: metadata, configuration, statistics."""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.telemetry.model_statistics import Duration
from hangtag.serving.server.telemetry.server_state import VersionState
from hangtag.serving.signature import TensorSpec

PLATFORM = "onnxruntime_onnx"
_EXTENSIONS = ("model_configuration", "model_repository", "statistics")
# Metadata of the ONNX file that is long and that only its owner needs: 'hangtag models' reads it from the file.
_UNPUBLISHED_METADATA = ("training", "reference", "reference_labels", "examples")
# Of the training, its data set is published, by which 'hangtag evaluate' finds the test pictures.
_DATA_SET = ("dataset", "data_digest", "pictures", "sizes", "image", "limit")


def server_metadata(*more_extensions: str) -> pb.ServerMetadataResponse:
    """Describe the server. more_extensions: of the protocol, which one transport alone has."""
    return pb.ServerMetadataResponse(
        name="hangtag", version=metadata.version("hangtag"), extensions=[*_EXTENSIONS, *more_extensions]
    )


def model_metadata(model: Servable, versions: Sequence[Servable]) -> pb.ModelMetadataResponse:
    """Describe a model's tensors. versions: All that are served of it, first the one for requests that name none."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[each.version for each in versions],
        platform=PLATFORM,
        inputs=[_tensor_metadata(spec) for spec in model.signature.inputs],
        outputs=[_tensor_metadata(spec) for spec in model.signature.outputs],
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
        input=[
            pb.ModelInput(name=spec.name, data_type=_data_type(spec), dims=spec.wire_shape[first_dim:])
            for spec in model.signature.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.wire_shape[first_dim:])
            for spec in model.signature.outputs
        ],
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


def model_index(state: VersionState) -> pb.RepositoryIndexResponse.ModelIndex:
    """Describe a version for the repository's index."""
    return pb.RepositoryIndexResponse.ModelIndex(
        name=state.name, version=state.version, state=state.state, reason=state.reason
    )


def model_statistics(state: VersionState) -> pb.ModelStatistics:
    """Report what a version has done since it was loaded."""
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


def _parameters(model: Servable) -> dict[str, str]:
    signature = model.signature
    published = {
        f"hangtag.{key}": value for key, value in signature.metadata.items() if key not in _UNPUBLISHED_METADATA
    }
    if (data_set := _data_set(signature.metadata.get("training", ""))) is not None:
        published["hangtag.training"] = data_set
    if signature.image is not None:  # also of a file of garments that an earlier release wrote, which does not say it
        published["hangtag.image"] = json.dumps(signature.image.as_json())
    if Classifier.fits(signature):
        published["classifies_images"] = "true"
    return published | dict(model.parameters())


@lru_cache(maxsize=64)
def _data_set(training: str) -> str | None:
    """The metadata ``training``, but for all that does not name the data set; None where it names none."""
    try:
        config = json.loads(training)["config"]
        return json.dumps({"config": {key: config[key] for key in _DATA_SET if key in config}})
    except (ValueError, TypeError, KeyError, RecursionError):  # a file of somebody else's
        return None


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.wire_shape)


def _data_type(spec: TensorSpec) -> str:
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
