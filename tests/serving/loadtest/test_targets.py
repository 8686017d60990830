"""What a load test reports about servers and models, and why a target cannot be measured."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit.fake_server import FakeServer, running, running_over_http
from tests.kit.other_servers import grpc_server, refusing, web_server
from tests.serving.loadtest.command import LOOP, Loadtest, measure, refused


def model_config(instances: int, **parameters: str) -> pb.ModelConfig:
    return pb.ModelConfig(
        max_batch_size=16,
        instance_group=[pb.ModelInstanceGroup(count=instances)],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
    )


def test_a_server_describes_itself_and_its_models_as_far_as_it_can(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    known = {"execution_provider": "CPUExecutionProvider", "onnxruntime_version": "1.2.3", "file_bytes": "1234"}
    server.configs = {
        "slow": model_config(2, **known, intra_op_threads="1", alone_threads="4"),
        "alike": model_config(1, intra_op_threads="4", alone_threads="4"),
        "malformed": model_config(1, file_bytes="much", **{"hangtag.test_accuracy": "good"}),
        **{f"malformed-{size[:3]}": model_config(1, file_bytes=size) for size in ("²", "9" * 5000, "-", "1e3")},
    }
    server.inputs |= dict.fromkeys(server.configs, server.inputs["fast"])
    server.versions = ["4", "2"]
    models = ("fast", *server.configs, "fast@2")
    measured = loadtest(*models, *LOOP, "--html", tmp_path / "page.html")
    targets = {target["name"]: target for target in measured.document["targets"]}
    assert list(targets) == list(models)
    for target in targets.values():
        assert target["server"] == {"address": server.address, "name": "fake", "version": "0.0"}
        assert target["model_versions"] == ["4", "2"]
        assert target["samples"] == "random values for image UINT8 [any, 28, 28]"
    details = ("execution_provider", "onnxruntime_version", "threads", "max_batch_size", "file_bytes")
    assert {name: tuple(target[detail] for detail in details) for name, target in targets.items()} == {
        "fast": ("", "", "", None, None),
        "slow": ("CPUExecutionProvider", "1.2.3", "2 instances of 1 thread (4 for a batch alone)", 16, 1234),
        "alike": ("", "", "1 instance of 4 threads", 16, None),
        **{name: ("", "", "1 instance", 16, None) for name in models if "malformed" in name},
        "fast@2": ("", "", "", None, None),
    }
    page = (tmp_path / "page.html").read_text()
    assert (
        f"version 4, 2 at {server.address}, CPUExecutionProvider, ONNX Runtime 1.2.3, 2 instances of 1 thread" in page
    )
    # The fake server chooses no version. A call to `fast` that names no version is counted once for each version.
    of_2 = sum(request.model_version == "2" for request in server.requests)
    assert of_2 == measured.run("fast@2")["total"]["queries"] + 1  # one probe call precedes the queries
    assert measured.run("fast@2")["total"]["server"]["requests"] == of_2 - 1


def test_a_server_that_keeps_no_statistics_is_measured_too(server: FakeServer, loadtest: Loadtest) -> None:
    server.keeps_statistics = False
    (run,) = loadtest("fast", *LOOP).runs
    assert (run["total"]["finished"], run["total"]["server"]) == (True, None)


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Any]]:
    """Servers of several kinds, keyed by the placeholders of their addresses."""
    with ExitStack() as stack:
        nowhere, other = stack.enter_context(refusing()), stack.enter_context(grpc_server({}))
        web = stack.enter_context(web_server(lambda _: (404, {}, b"")))
        names = ("plain", "loading", "ignores", "refuses", "without-list")
        servers = {name: stack.enter_context(running(FakeServer())) for name in names}
        servers["without-list"].lists_models = False
        servers["plain"].versions = servers["ignores"].versions = ["4", "2"]
        servers["ignores"].answer = lambda request: pb.ModelInferResponse(model_version="4")
        code = grpc.StatusCode.INVALID_ARGUMENT
        servers["refuses"].behaviour = lambda number, context: context.abort(code, "no such shape")
        addresses = {name: each.address for name, each in servers.items()}
        yield {**addresses, "nowhere": nowhere, "web": web, "other": other, "counted": servers}


@pytest.mark.parametrize(
    ("model", "at", "more", "facts"),
    [
        ("lstn", "plain", "", "'lstn'; fast, loading, slow"),
        ("lstn@3", "plain", "", "'lstn'; fast, loading, slow"),
        ("lstn", "without-list", "", "'lstn'."),
        ("loading", "loading", "", "'loading' not ready"),
        ("fast@3", "plain", "", "version 3 'fast', 4, 2"),
        ("fast@2", "ignores", "", "fast@2 version 4"),
        ("fast", "refuses", "", "INVALID_ARGUMENT no such shape"),
        ("fast", "plain", "--method classify", "Classify --method"),
        ("fast", "nowhere", "", "no server answers"),
        ("fast", "web", "", "HTTP gRPC --server"),
        ("fast", "other", "", "Open Inference Protocol"),
    ],
)
def test_a_target_that_cannot_be_measured_exits_with_1_and_why(
    places: dict[str, Any], model: str, at: str, more: str, facts: str
) -> None:
    refused(facts, model, "--server", places[at], *more.split())
    servers: dict[str, FakeServer] = places["counted"]
    assert len(servers[at].requests if at in servers else []) <= 1


def test_one_command_measures_models_on_several_servers(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load runs over both protocols. The generator starts one sending process for every four CPUs."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    with running_over_http(FakeServer()) as other:
        targets = (f"a={server.address}/fast@1", f"b={other.address}/slow")
        options = (word for target in targets for word in ("--target", target))
        measured = measure(tmp_path, *options, *LOOP)
        assert {request.model_name for request in other.requests} == {"slow"}
    assert [target["server"]["address"] for target in measured.document["targets"]] == [server.address, other.address]
    assert [(run["target"], run["model"]) for run in measured.runs] == [("a", "fast"), ("b", "slow")]
    assert {request.model_name for request in server.requests} == {"fast"}
    generator = measured.document["environment"]["generator"]
    assert generator.startswith("2 processes on ")
    assert "completion queue" in generator
    assert "HTTP/1.1" in generator
