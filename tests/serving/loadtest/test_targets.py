"""What a server says of itself and its models, and why a target cannot be measured."""

import html
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.command import refusal
from tests.kit.fake_server import FakeServer, running, running_over_http
from tests.kit.other_servers import web_server
from tests.serving.loadtest.command import QUICK, measure

pytestmark = pytest.mark.slow

LOOP = (*QUICK, "--concurrency", 1)


def model_config(instances: int, **parameters: str) -> pb.ModelConfig:
    return pb.ModelConfig(
        max_batch_size=16,
        instance_group=[pb.ModelInstanceGroup(count=instances)],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
    )


def test_a_server_describes_itself_and_its_models_as_far_as_it_can(server: FakeServer, tmp_path: Path) -> None:
    known = {"execution_provider": "CPUExecutionProvider", "onnxruntime_version": "1.2.3", "file_bytes": "1234"}
    server.configs = {
        "slow": model_config(2, **known, intra_op_threads="1", alone_threads="4"),
        "alike": model_config(1, intra_op_threads="4", alone_threads="4"),
        "malformed": model_config(1, file_bytes="much", **{"hangtag.test_accuracy": "good"}),
    }
    server.inputs |= dict.fromkeys(server.configs, server.inputs["fast"])
    server.versions = ["4", "2"]
    models = ("fast", *server.configs, "fast@2")
    measured = measure(tmp_path, *models, "--server", server.address, *LOOP, "--html", tmp_path / "page.html")
    targets = {target["name"]: target for target in measured.document["targets"]}
    assert list(targets) == list(models)
    for target in targets.values():
        assert target["server"] == {"address": server.address, "name": "fake", "version": "0.0"}
        assert target["model_versions"] == ["4", "2"]
        assert target["samples"] == "random values for image UINT8 [-1, 28, 28]"
    details = ("execution_provider", "onnxruntime_version", "threads", "max_batch_size", "file_bytes")
    assert {name: tuple(target[detail] for detail in details) for name, target in targets.items()} == {
        "fast": ("", "", "", None, None),
        "slow": ("CPUExecutionProvider", "1.2.3", "2 instances of 1 thread (4 for a batch alone)", 16, 1234),
        "alike": ("", "", "1 instance of 4 threads", 16, None),
        "malformed": ("", "", "1 instance", 16, None),
        "fast@2": ("", "", "", None, None),
    }
    page = (tmp_path / "page.html").read_text()
    assert (
        f"version 4, 2 at {server.address}, CPUExecutionProvider, ONNX Runtime 1.2.3, 2 instances of 1 thread" in page
    )
    # The server's counters are those of the target's version: a call of `fast` alone counts for every version.
    of_2 = sum(request.model_version == "2" for request in server.requests)
    assert of_2 == measured.run("fast@2")["total"]["queries"] + 1  # one before the load
    assert measured.run("fast@2")["total"]["server"]["requests"] == of_2 - 1


def test_the_servers_own_times_are_read_where_it_keeps_them(server: FakeServer, tmp_path: Path) -> None:
    (run,) = measure(tmp_path, "fast", "--server", server.address, *LOOP).runs
    assert run["total"]["server"]["requests"] == run["total"]["server"]["batches"] == run["total"]["queries"]
    assert run["total"]["server"]["queue"] == pytest.approx(0.002)
    server.keeps_statistics = False
    (run,) = measure(tmp_path, "fast", "--server", server.address, *LOOP).runs
    assert (run["valid"], run["total"]["server"]) == (True, None)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def of_server(certificates: Certificates) -> grpc.ServerCredentials:
    pair = (certificates.key("server-of-ours").read_bytes(), certificates.cert("server-of-ours").read_bytes())
    return grpc.ssl_server_credentials([pair])


@pytest.fixture(scope="module")
def places(certificates: Certificates) -> Iterator[dict[str, Any]]:
    """Servers of several kinds, by the words that stand for their addresses."""
    other = grpc.server(futures.ThreadPoolExecutor(1))  # of another protocol
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    silent = FakeServer()
    silent.lists_models = False
    names = ("plain", "loading", "ignores", "refuses")
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(FakeServer())) for name in names}
        servers["plain"].versions = servers["ignores"].versions = ["4", "2"]
        servers["ignores"].answer = lambda request: pb.ModelInferResponse(model_version="4")
        code = grpc.StatusCode.INVALID_ARGUMENT
        servers["refuses"].behaviour = lambda number, context: context.abort(code, "no such shape")
        servers["without-list"] = stack.enter_context(running(silent))
        servers["encrypted"] = stack.enter_context(running(FakeServer(), credentials=of_server(certificates)))
        unused = stack.enter_context(socket.socket())  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        web = stack.enter_context(web_server(lambda _: (404, {}, b"")))
        yield {name: each.address for name, each in servers.items()} | {
            "nowhere": f"127.0.0.1:{unused.getsockname()[1]}",
            "web": web,
            "other": f"127.0.0.1:{port}",
            "counted": servers,
        }
    other.stop(None).wait()


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
        ("fast", "encrypted", "", "--tls-ca"),
        ("fast", "encrypted", "--tls-ca STRANGERS", "strangers-ca.pem --tls-ca"),
        ("fast", "plain", "--tls-ca OURS", "TLS --tls-ca"),
        ("fast", "plain", "--tls-ca /missing.pem", "/missing.pem --tls-ca"),
    ],
)
def test_a_target_that_cannot_be_measured_exits_with_1_and_why(
    places: dict[str, Any], certificates: Certificates, model: str, at: str, more: str, facts: str
) -> None:
    files = {"OURS": str(certificates.ca()), "STRANGERS": str(certificates.ca("strangers"))}
    said = refusal("loadtest", model, "--server", places[at], *(files.get(word, word) for word in more.split()))
    assert all(fact in said for fact in facts.split()), said
    servers: dict[str, FakeServer] = places["counted"]
    assert len(servers[at].requests if at in servers else []) <= 1


def test_a_name_that_no_resolver_knows_is_reported() -> None:
    said = refusal("loadtest", "cnn", "--server", "nowhere.invalid:1", "--yes-load-remote")  # RFC 6761: never resolves
    assert "nowhere.invalid:1" in said


@pytest.mark.parametrize("way", ["queue", "futures"])
def test_tls_and_a_token_are_sent_with_every_call(certificates: Certificates, tmp_path: Path, way: str) -> None:
    """Over HTTP: test_over_http."""

    def guard(number: int, context: grpc.ServicerContext) -> None:
        if ("authorization", f"Bearer {TOKEN}") not in [(key, value) for key, value in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    guarded = FakeServer()
    guarded.behaviour = guard
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    public = ("--public-api",) if way == "futures" else ()
    with running(guarded, credentials=of_server(certificates)):
        command = ("fast", "--server", guarded.address, *LOOP, *public, "--tls-ca", certificates.ca())
        measured = measure(tmp_path, *command, "--token-file", tmp_path / "token")
        assert "UNAUTHENTICATED" in refusal("loadtest", *command)
    (run,) = measured.runs
    assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}
    assert way in measured.document["environment"]["generator"]


def test_one_command_measures_models_on_several_servers(server: FakeServer, tmp_path: Path) -> None:
    """Over both protocols; the generator's own ceiling is that of each."""
    with running_over_http(FakeServer()) as other:
        targets = (f"a={server.address}/fast@1", f"b={other.address}/slow")
        options = (word for target in targets for word in ("--target", target))
        page = tmp_path / "page.html"
        measured = measure(tmp_path, *options, *LOOP, "--calibrate", "--processes", 2, "--html", page)
        assert {request.model_name for request in other.requests} == {"slow"}
    assert [target["server"]["address"] for target in measured.document["targets"]] == [server.address, other.address]
    assert [(run["target"], run["model"]) for run in measured.runs] == [("a", "fast"), ("b", "slow")]
    assert {request.model_name for request in server.requests} == {"fast"}
    generator = measured.document["environment"]["generator"]
    assert generator.startswith("2 processes on ")
    assert "completion queue" in generator
    assert "HTTP/1.1" in generator
    ceilings = measured.document["generator_ceilings"]
    assert [(each["protocol"], each["load"]["concurrency"]) for each in ceilings] == [("gRPC", 1), ("HTTP", 1)]
    for ceiling in ceilings:
        assert ceiling["throughput"] > 100
        assert 0 < ceiling["p50"] <= ceiling["p99"]
    assert [run["generator_ceiling"] for run in measured.runs] == [each["throughput"] for each in ceilings]
    for text in (measured.text, html.unescape(page.read_text())):
        assert text.count("The generator's own ceiling: ") == 2
