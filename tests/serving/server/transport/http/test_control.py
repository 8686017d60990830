"""Loading and unloading over HTTP."""

import gzip
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, index, request
from tests.kit.rest import Rest

pytestmark = pytest.mark.slow


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Rest]:
    """A connection to a server that loads by call; it serves gather."""
    for name in ("gather", "classifier"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)())
    config = ServerConfig(
        models=tmp_path, port=0, http_port=0, model_control="explicit", load_model=("gather",), transport="grpc"
    )
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        yield rest


def states(rest: Rest) -> dict[str, str]:
    return {each["name"]: each["state"] for each in rest.post("/v2/repository/index").json}


def test_a_model_is_loaded_and_unloaded(controlled: Rest) -> None:
    assert states(controlled) == {"gather": "READY", "classifier": "UNAVAILABLE"}
    assert controlled.get("/v2/models/classifier/ready").status == 404
    assert controlled.post("/v2/repository/models/classifier/load").status == 200
    assert controlled.get("/v2/models/classifier/ready").status == 200
    body = '{"parameters": {"unload_dependents": false}}'
    assert controlled.post("/v2/repository/models/gather/unload", body).status == 200
    assert [each["name"] for each in controlled.post("/v2/repository/index", '{"ready": true}').json] == ["classifier"]
    assert controlled.infer(request("gather", index=index(1))).status == 404
    compressed = gzip.compress(b'{"ready": true}')
    answer = controlled.post("/v2/repository/index", compressed, content_encoding="gzip")
    assert [each["name"] for each in answer.json] == ["classifier"]


def test_what_cannot_be_loaded(controlled: Rest, tmp_path: Path) -> None:
    answer = controlled.post("/v2/repository/models/nobody/load")
    assert (answer.status, "nobody" in answer.error) == (404, True)
    answer = controlled.post("/v2/repository/models/classifier/load", '{"parameters": {"config": "{}"}}')
    assert (answer.status, answer.error) == (
        400,
        "parameter 'config' is not supported: a model is loaded as its file is",
    )
    file = next((tmp_path / "classifier").rglob("model.onnx"))
    file.write_bytes(file.read_bytes()[:50])
    answer = controlled.post("/v2/repository/models/classifier/load")
    assert (answer.status, "cannot be loaded by ONNX Runtime" in answer.error) == (400, True)
    assert controlled.post("/v2/repository/models/nobody/unload").status == 404
    assert controlled.post("/v2/repository/models/gather/load", '{"parameters": 7}').status == 400


@pytest.mark.parametrize("body", ["{", "[]", '{"ready": 1}', "x" * 100_000])
def test_a_body_that_is_not_understood(controlled: Rest, body: str) -> None:
    assert controlled.post("/v2/repository/index", body).status == (413 if len(body) > 65536 else 400)


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "1.2.3", "12345"]
)
def test_a_page_whose_name_was_made_to_resolve_to_this_server_cannot_change_what_is_served(
    controlled: Rest, action: str, host: str
) -> None:
    """DNS rebinding: the browser takes the server for the page's own site."""
    for origin in ({"origin": f"http://{host}"}, {}):
        answer = controlled.post(f"/v2/repository/models/gather/{action}", host=host, **origin)
        assert (answer.status, f"no name {host!r}" in answer.error) == (403, True)
    assert states(controlled)["gather"] == "READY"


def test_a_caller_with_a_token_may_load_under_any_name(tmp_path: Path) -> None:
    """A page that uses another site's name has no token, and programs in a cluster call the server by many names."""
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-this-test")
    config = ServerConfig(
        models=tmp_path / "models", port=0, http_port=0, model_control="explicit", token_file=tokens, transport="grpc"
    )
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        headers = {"host": "hangtag.models.svc:8000", "authorization": "Bearer a-token-of-this-test"}
        assert rest.post("/v2/repository/models/gather/load", **headers).status == 200


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST.", "app.localhost", "127.0.0.1:1", "[::1]:1", "[fe80::1]", "10.0.0.1"]
)
def test_a_page_of_an_address_or_of_localhost_may_load(controlled: Rest, host: str) -> None:
    assert controlled.post("/v2/repository/models/gather/load", host=host, origin=f"http://{host}").status == 200


def test_the_operator_names_the_hosts(few: Path) -> None:
    names = ("models.example", "Other.Example.")
    with (
        LiveServer(ServerConfig(models=few, port=0, http_port=0, allowed_host=names, model_control="explicit")) as live,
        Rest(live.server.http_address) as rest,
    ):
        for host in ("models.example", "models.example:80", "other.example", "localhost:80", "127.0.0.1"):
            assert rest.get("/v2", host=host).status == 200
            assert rest.post("/v2/repository/models/gather/load", host=host, origin=f"https://{host}").status == 200
        for host in ("evil.example", "example", "a.models.example", "12345"):
            answer = rest.get("/v2", host=host)
            assert (answer.status, "--allowed-host" in answer.error) == (403, True)
            assert rest.infer(request("gather", index=index(1)), host=host).status == 403
            assert rest.get("/v2/health/ready", host=host).status == 200  # probes may call it by any name


@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_page_of_another_site_cannot_change_what_is_served(controlled: Rest, action: str) -> None:
    path = f"/v2/repository/models/gather/{action}"
    for origin in ("http://example.com", "null", "http://localhost:1"):
        answer = controlled.post(path, origin=origin)
        assert (answer.status, answer.error.startswith(f"a page of {origin} may not")) == (403, True)
    assert states(controlled)["gather"] == "READY"
    own = f"http://{controlled.connection.host}:{controlled.connection.port}"
    assert controlled.post(path, origin=own).status == 200


def test_a_server_without_control_by_call_says_so(rest: Rest) -> None:
    answer = rest.post("/v2/repository/models/gather/unload")
    assert (answer.status, "--model-control explicit" in answer.error) == (400, True)


@pytest.mark.parametrize("calls", [0, 1, 20])
def test_an_unloaded_model_is_gone_with_its_memory(tmp_path: Path, calls: int) -> None:
    """Though the connection that called it stays open, and the head of its requests is kept."""
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    config = ServerConfig(
        models=tmp_path,
        port=0,
        http_port=0,
        model_control="explicit",
        load_model=("*",),
        transport="grpc",
        limits=Limits(linger_seconds=0),
    )
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        for _ in range(calls):
            assert rest.infer(request("gather", index=index(2))).outputs["value"].tolist() == [20]
        gone = threading.Event()
        runtime = weakref.ref(live.model("gather").runtime, lambda _: gone.set())
        assert rest.post("/v2/repository/models/gather/unload").status == 200
        assert gone.wait(TIMEOUT)
        assert runtime() is None


def test_requests_with_one_head_follow_a_reload(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    config = ServerConfig(models=tmp_path, port=0, http_port=0, model_control="explicit", load_model=("*",))
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        for version in ("1", "2", "3"):
            if version != "1":
                onnx_models.publish(tmp_path, "gather", onnx_models.gather(), version=int(version))
                assert rest.post("/v2/repository/models/gather/load").status == 200
            for _ in range(3):
                answer = rest.infer(request("gather", index=index(1, 2)))
                assert (answer.json["model_version"], answer.outputs["value"].tolist()) == (version, [10, 20])
            assert rest.infer(request("gather", index=index(3))).outputs["value"].tolist() == [30]  # another shape
