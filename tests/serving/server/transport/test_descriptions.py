"""How a server describes itself and its models: metadata, configurations, the transport, and the statuses of errors."""

import asyncio
import importlib.metadata
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import onnxruntime
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server import errors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.telemetry.server_state import UNAVAILABLE, ServerState, VersionState
from hangtag.serving.server.transport import choose_transport
from hangtag.serving.server.wire.model_queries import ModelService
from tests.kit.certificates import Certificates
from tests.kit.live import LiveServer, index, request
from tests.kit.over_http import HTTP, live_server
from tests.kit.shipped import latest
from tests.kit.waiting import TIMEOUT


def model_config(live: LiveServer, name: str, version: str = "") -> pb.ModelConfig:
    asked = pb.ModelConfigRequest(name=name, version=version)
    config: pb.ModelConfig = live.inference.ModelConfig(asked, timeout=TIMEOUT).config
    return config


def test_the_server_is_live_and_ready_and_so_are_its_models(live: LiveServer, transport: str) -> None:
    assert live.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
    assert live.ready()
    for name, version, ready in (
        ("classifier", "", True),
        ("classifier", "12", True),
        ("classifier", "1", False),
        ("nobody", "", False),
    ):
        asked = pb.ModelReadyRequest(name=name, version=version)
        assert live.inference.ModelReady(asked, timeout=TIMEOUT).ready is ready
    server = live.inference.ServerMetadata(pb.ServerMetadataRequest(), timeout=TIMEOUT)
    assert (server.name, server.version) == ("hangtag", importlib.metadata.version("hangtag"))
    extensions = ["model_configuration", "model_repository", "statistics"]
    assert sorted(server.extensions) == sorted(extensions + ["binary_tensor_data"] * (transport == HTTP))


def test_the_metadata_and_the_configuration_of_a_batched_model(live: LiveServer) -> None:
    for version in ("", "12"):
        asked = pb.ModelMetadataRequest(name="classifier", version=version)
        model = live.inference.ModelMetadata(asked, timeout=TIMEOUT)
        assert (model.name, list(model.versions), model.platform) == ("classifier", ["12"], "onnxruntime_onnx")
        assert [(one.name, one.datatype, list(one.shape)) for one in (*model.inputs, *model.outputs)] == [
            ("image", "UINT8", [-1, 28, 28]),
            ("logits", "FP32", [-1, 10]),
            ("probabilities", "FP32", [-1, 10]),
        ]
    config = model_config(live, "classifier")
    assert config == model_config(live, "classifier", "12")
    assert (config.name, config.backend, config.max_batch_size) == ("classifier", "onnxruntime", 16)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    described: list[Any] = [*config.input, *config.output]
    assert [(one.name, one.data_type, list(one.dims)) for one in described] == [
        ("image", pb.TYPE_UINT8, [28, 28]),
        ("logits", pb.TYPE_FP32, [10]),
        ("probabilities", pb.TYPE_FP32, [10]),
    ]
    assert config.instance_group[0].count == 1
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["execution_provider"] == "CPUExecutionProvider"
    assert parameters["execution_provider_asked"] == "auto"
    assert parameters["cuda_graphs"] == "off"
    assert parameters["onnxruntime_version"] == onnxruntime.__version__
    assert int(parameters["file_bytes"]) > 500
    threads = [int(parameters[name]) for name in ("intra_op_threads", "alone_threads")]
    assert 1 <= threads[0] <= threads[1] <= len(os.sched_getaffinity(0))
    assert parameters["hangtag.task"] == "single_label"


def test_model_config_of_a_model_without_a_batch_axis_and_of_every_datatype(live: LiveServer) -> None:
    config = model_config(live, "unbatched")
    assert config.max_batch_size == 0
    assert config.WhichOneof("scheduling_choice") is None
    assert list(config.input[0].dims) == [4]
    of_every_type = model_config(live, "every_type")
    named = {one.name.removeprefix("in_"): pb.DataType.Name(one.data_type) for one in of_every_type.input}
    assert named == {name: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for name in tensors.DTYPES}


def test_the_repository_and_the_statistics_list_every_model(live: LiveServer) -> None:
    for ready in (False, True):
        models = live.inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=TIMEOUT).models
        listed = {model.name: (model.version, model.state) for model in models}
        assert listed["classifier"] == ("12", "READY")
        assert listed["lstm"] == (latest("lstm").parent.name, "READY")
        assert len(listed) == 12
    counted = live.inference.ModelStatistics(pb.ModelStatisticsRequest(), timeout=TIMEOUT).model_stats
    assert {one.name for one in counted} == listed.keys()
    one = pb.ModelStatisticsRequest(name="classifier", version="12")
    assert [each.name for each in live.inference.ModelStatistics(one, timeout=TIMEOUT).model_stats] == ["classifier"]


def test_statistics_of_a_model_that_another_worker_cannot_load_are_an_error() -> None:
    worker: Any = SimpleNamespace(state=lambda: ServerState((VersionState("m", "1", UNAVAILABLE),)), model=print)
    with pytest.raises(errors.NotFoundError, match="not every worker serves 'm'"):
        asyncio.run(ModelService(worker, worker).ModelStatistics(pb.ModelStatisticsRequest(name="m")))


NOT_INSTALLED = "pygrpc-native is not installed (pip install '.[native]')"
NOT_TESTED = "pygrpc-native {} is not tested with hangtag; the tested versions are 0.5 to below 0.6"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"host": "::1"}, ("native", "TLS is off and the address is loopback")),
        ({"host": "localhost"}, ("native", "TLS is off and the address is loopback")),
        ({"transport": "native"}, ("native", "--transport native")),
        ({"transport": "native", "host": "0.0.0.0"}, ("native", "--transport native")),
        ({"host": "0.0.0.0"}, ("native", "Envoy listens in front of the server, and enforces the limits")),
        ({"host": "0.0.0.0", "published_host": "[::1]"}, ("native", "TLS is off and the address is loopback")),
    ],
    ids=str,
)
def test_each_reason(options: dict[str, Any], expected: tuple[str, str]) -> None:
    assert choose_transport(ServerConfig(**options)) == expected


def test_with_tls_envoy_listens_in_front_of_any_transport(tmp_path: Path) -> None:
    files = Certificates(tmp_path).server()
    assert choose_transport(ServerConfig(**files))[0] == "native"
    for transport in ("auto", "native", "grpc"):
        assert ServerConfig(transport=transport, **files).is_exposed


@pytest.mark.parametrize("version", ["0.5.0", "0.5.99", "", "0.4.9", "0.6.0", "1.0", "0.6rc1", "unknown"])
def test_a_library_that_is_missing_or_was_not_tested(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    def installed(_: str) -> str:
        if not version:
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    if version.startswith("0.5"):
        assert choose_transport(ServerConfig())[0] == "native"
        return
    reason = NOT_TESTED.format(version) if version else NOT_INSTALLED
    assert choose_transport(ServerConfig()) == ("grpc", reason)
    assert choose_transport(ServerConfig(transport="grpc")) == ("grpc", "--transport grpc")
    with pytest.raises(errors.StartError) as refused:
        choose_transport(ServerConfig(transport="native"))
    assert str(refused.value) == f"--transport native cannot be used: {reason}. Alternatively, use --transport grpc."


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)  # as if one of its shared libraries were missing
    transport, reason = choose_transport(ServerConfig())
    assert transport == "grpc"
    assert "cannot be imported" in reason
    with pytest.raises(errors.StartError, match="cannot be imported"):
        choose_transport(ServerConfig(transport="native"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("auto", ("native", "TLS is off and the address is loopback")), ("grpc", ("grpc", "--transport grpc"))],
)
def test_the_log_says_which_and_why(few: Path, asked: str, expected: tuple[str, str]) -> None:
    with structlog.testing.capture_logs() as logs, live_server(asked, few) as live:
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        assert live.server.state().transports == {expected: 1}
    (ready,) = [line for line in logs if line["event"] == "ready"]
    assert (ready["transport"], ready["because"]) == expected
    assert {line["log_level"] for line in logs} == {"info"}


STATUSES: dict[type[errors.ServerError], tuple[grpc.StatusCode, int]] = {
    errors.InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.UnsupportedEncodingError: (grpc.StatusCode.INVALID_ARGUMENT, 415),
    errors.NotFoundError: (grpc.StatusCode.NOT_FOUND, 404),
    errors.NothingToUnloadError: (grpc.StatusCode.NOT_FOUND, 404),
    errors.MessageTooLargeError: (grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
    errors.QueueFullError: (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    errors.DeadlineError: (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    errors.CancelledError: (grpc.StatusCode.CANCELLED, 499),
    errors.UnavailableError: (grpc.StatusCode.UNAVAILABLE, 503),
    errors.NotLoadedError: (grpc.StatusCode.UNAVAILABLE, 503),
    errors.ControlError: (grpc.StatusCode.FAILED_PRECONDITION, 400),
    errors.UnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, 401),
    errors.ForeignOriginError: (grpc.StatusCode.UNAUTHENTICATED, 403),
    errors.InferenceError: (grpc.StatusCode.INTERNAL, 500),
    errors.InvalidValuesError: (grpc.StatusCode.INVALID_ARGUMENT, 400),
}


class FailingControl:
    """Wraps the server's ModelControl. For example, ``load("InferenceError")`` raises a subclass of InferenceError."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def load(self, name: str) -> None:
        if name == "bug":
            raise LookupError("a secret of ours")
        base: Any = getattr(errors, name)
        raise type("Special", (base,), {})("a special case")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def test_every_error_has_a_status_and_so_has_a_subclass_of_it_and_a_bug_has_a_reference(
    few: Path, transport: str
) -> None:
    of_requests = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServerError)
        if kind is not errors.ServerError and not issubclass(kind, errors.StartError)
    }
    assert of_requests == STATUSES.keys()
    with live_server(transport, few, wrap_control=FailingControl) as live, structlog.testing.capture_logs() as log:

        def end(name: str) -> Any:
            message = pb.RepositoryModelLoadRequest(model_name=name)
            with pytest.raises(grpc.RpcError) as raised:
                live.inference.RepositoryModelLoad(message, timeout=TIMEOUT)
            return raised.value

        for kind, (code, status) in STATUSES.items():
            error = end(kind.__name__)
            assert (error.status if transport == HTTP else error.code()) == (status if transport == HTTP else code)
            assert error.details() == "a special case"
        bug = end("bug")
    assert (bug.code(), "secret" in bug.details()) == (grpc.StatusCode.INTERNAL, False)
    (line,) = [line for line in log if line["log_level"] == "error"]
    assert line["reference"] in bug.details()
