"""What a server says of itself and of its models: health, metadata, configurations, reflection."""

import os
from importlib import metadata

import onnxruntime
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


def test_the_server_is_live_and_ready(live: LiveServer) -> None:
    assert live.inference.ServerLive(pb.ServerLiveRequest()).live
    assert live.inference.ServerReady(pb.ServerReadyRequest()).ready


def test_server_metadata(live: LiveServer) -> None:
    server = live.inference.ServerMetadata(pb.ServerMetadataRequest())
    assert (server.name, server.version) == ("hangtag", metadata.version("hangtag"))
    assert list(server.extensions) == ["model_configuration", "model_repository", "statistics"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("classifier", "", True), ("classifier", "12", True), ("classifier", "1", False), ("nobody", "", False)],
)
def test_model_ready(live: LiveServer, name: str, version: str, ready: bool) -> None:
    assert live.inference.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready


def test_model_metadata(live: LiveServer) -> None:
    model = live.inference.ModelMetadata(pb.ModelMetadataRequest(name="classifier"))
    assert (model.name, list(model.versions), model.platform) == ("classifier", ["12"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in (*model.inputs, *model.outputs)] == [
        ("image", "UINT8", [-1, 28, 28]),
        ("logits", "FP32", [-1, 10]),
        ("probabilities", "FP32", [-1, 10]),
    ]


def test_model_config_of_a_batched_model(live: LiveServer) -> None:
    config = live.inference.ModelConfig(pb.ModelConfigRequest(name="classifier")).config
    assert (config.name, config.backend, config.max_batch_size) == ("classifier", "onnxruntime", 16)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [(one.name, pb.DataType.Name(one.data_type), list(one.dims)) for one in config.input] == [
        ("image", "TYPE_UINT8", [28, 28])
    ]
    assert [(one.name, pb.DataType.Name(one.data_type), list(one.dims)) for one in config.output] == [
        ("logits", "TYPE_FP32", [10]),
        ("probabilities", "TYPE_FP32", [10]),
    ]
    assert config.instance_group[0].count == 1
    assert config.parameters["execution_provider"].string_value == "CPUExecutionProvider"
    assert config.parameters["execution_provider_asked"].string_value == "auto"
    assert config.parameters["cuda_graphs"].string_value == "off"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert config.parameters["onnxruntime_version"].string_value == onnxruntime.__version__
    assert int(config.parameters["file_bytes"].string_value) > 500
    threads = [int(config.parameters[name].string_value) for name in ("intra_op_threads", "alone_threads")]
    assert 1 <= threads[0] <= threads[1] <= len(os.sched_getaffinity(0))
    assert config.parameters["hangtag.task"].string_value == "single_label"


def test_model_config_of_a_model_without_a_batch_axis(live: LiveServer) -> None:
    config = live.inference.ModelConfig(pb.ModelConfigRequest(name="unbatched")).config
    assert config.max_batch_size == 0
    assert config.WhichOneof("scheduling_choice") is None
    assert list(config.input[0].dims) == [4]


def test_the_configuration_names_every_datatype_as_triton_does(live: LiveServer) -> None:
    config = live.inference.ModelConfig(pb.ModelConfigRequest(name="every_type")).config
    named = {one.name.removeprefix("in_"): pb.DataType.Name(one.data_type) for one in config.input}
    assert named == {name: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for name in tensors.DTYPES}


def test_the_repository_lists_every_model(live: LiveServer) -> None:
    index_ = live.inference.RepositoryIndex(pb.RepositoryIndexRequest())
    listed = {model.name: (model.version, model.state) for model in index_.models}
    assert listed["classifier"] == ("12", "READY")
    assert listed["lstm"] == (latest("lstm").parent.name, "READY")
    assert len(listed) == 12


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_describes_them(live: LiveServer, version: str) -> None:
    call = live.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    sent = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="hangtag.v1.Classifier"),
    ]
    answer, described = call(iter(sent), timeout=TIMEOUT)
    assert len(described.file_descriptor_response.file_descriptor_proto) >= 1
    services = {service.name for service in answer.list_services_response.service}
    assert {
        "inference.GRPCInferenceService",
        "hangtag.v1.Classifier",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= services
