"""The server's HTTP paths and methods, and the host names whose pages may load and unload models."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.certificates import TOKEN
from tests.kit.live import index, request
from tests.kit.over_http import live_server
from tests.kit.rest import Rest


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/v2/models/gather/infer", "/v2/models/gather/versions/1/infer"]
)
def test_a_method_that_a_path_does_not_take(rest: Rest, method: str, path: str) -> None:
    answer = rest.ask(method, path, b"", {})
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "POST" in answer.error


def test_a_path_that_does_not_exist(rest: Rest) -> None:
    answer = rest.get("/v3/models")
    assert (answer.status, "/openapi.json" in answer.error) == (404, True)
    assert rest.ask("HEAD", "/v2/health/live", b"", {}).status == 200


def test_numbers_of_the_protocol_are_numbers_in_json_and_not_texts(rest: Rest) -> None:
    """protobuf's own JSON would write 64-bit numbers as strings, which other clients do not accept."""
    assert rest.get("/v2/models/classifier").json["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}
    ]
    configured = rest.get("/v2/models/classifier/config").json
    assert (configured["max_batch_size"], configured["input"][0]["dims"]) == (16, [28, 28])
    rest.infer(request("gather", index=index(1, 2)))
    (counted,) = rest.get("/v2/models/gather/versions/1/stats").json["model_stats"]
    assert counted["inference_count"] >= 2


def test_the_metrics_are_in_the_format_that_is_accepted(rest: Rest) -> None:
    answer = rest.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "nv_inference_count" in {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert rest.get("/metrics", accept="application/openmetrics-text; version=1.0.0").body.endswith(b"# EOF\n")
    unreadable = rest.get("/metrics", accept="application/openmetrics-text; version=no-number")
    assert (unreadable.status, unreadable.error[:17]) == (400, "the Accept header")


@pytest.fixture(scope="module")
def controlled(few: Path) -> Iterator[Rest]:
    """A connection to a server that serves the model ``gather`` and has explicit model control."""
    with (
        live_server("grpc", few, http_port=0, model_control="explicit", load_model=("gather",)) as live,
        Rest(live.server.http_address) as rest,
    ):
        yield rest


def is_served(rest: Rest) -> bool:
    return rest.get("/v2/models/gather/ready").status == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("index", "{", 400),
        ("index", "[]", 400),
        ("index", '{"ready": 1}', 400),
        ("index", "x" * (4 << 20 | 1), 413),
        ("models/gather/load", '{"parameters": 7}', 400),
        ("models/gather/load", '{"parameters": {"config": "{}"}}', 400),
        ("models/gather/unload", '{"parameters": {"unload_dependents"', 400),
        ("models/classifier/unload", '{"parameters": {"unload_dependents": false}}', 404),  # no such model
    ],
)
def test_a_body_that_the_repository_does_not_understand(controlled: Rest, path: str, body: str, status: int) -> None:
    assert controlled.post(f"/v2/repository/{path}", body).status == status
    assert is_served(controlled)


def test_a_body_for_the_repository_may_be_compressed(controlled: Rest) -> None:
    packed = gzip.compress(b'{"ready": true}')
    answer = controlled.post("/v2/repository/index", packed, content_encoding="gzip")
    assert [each["name"] for each in answer.json] == ["gather"]


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "1.2.3", "12345"]
)
def test_a_page_whose_name_was_made_to_resolve_to_this_server_cannot_change_what_is_served(
    controlled: Rest, action: str, host: str
) -> None:
    """In DNS rebinding, the browser considers the server a part of the page's own site."""
    for origin in ({"origin": f"http://{host}"}, {}):
        answer = controlled.post(f"/v2/repository/models/gather/{action}", host=host, **origin)
        assert (answer.status, f"not know the host name {host!r}" in answer.error) == (403, True)
    assert is_served(controlled)


@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_page_of_another_site_cannot_change_what_is_served(controlled: Rest, action: str) -> None:
    path = f"/v2/repository/models/gather/{action}"
    for origin in ("http://example.com", "null", "http://localhost:1"):
        answer = controlled.post(path, origin=origin)
        assert (answer.status, f"a page of {origin}" in answer.error) == (403, True)
    assert is_served(controlled)
    own = f"http://{controlled.connection.host}:{controlled.connection.port}"
    assert controlled.post(path, origin=own).status == 200
    assert is_served(controlled) is (action == "load")
    controlled.post("/v2/repository/models/gather/load")


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST.", "app.localhost", "127.0.0.1:1", "[::1]:1", "[fe80::1]", "10.0.0.1"]
)
def test_a_page_of_an_address_or_of_localhost_may_load(controlled: Rest, host: str) -> None:
    assert controlled.post("/v2/repository/models/gather/load", host=host, origin=f"http://{host}").status == 200


def test_a_caller_with_a_token_may_load_under_any_name(few: Path, tmp_path: Path) -> None:
    """With a token, the host name does not matter, because programs in a cluster call a server by many names."""
    (tmp_path / "tokens").write_text(TOKEN)
    live = live_server("grpc", few, http_port=0, model_control="explicit", token_file=tmp_path / "tokens")
    with live, Rest(live.server.http_address) as rest:
        headers = {"host": "hangtag.models.svc:8000", "authorization": f"Bearer {TOKEN}"}
        assert rest.post("/v2/repository/models/gather/load", **headers).status == 200


def test_the_operator_names_the_hosts(few: Path) -> None:
    names = ("models.example", "Other.Example.")
    live = live_server("grpc", few, http_port=0, model_control="explicit", allowed_host=names)
    with live, Rest(live.server.http_address) as rest:
        for host in ("models.example", "models.example:80", "other.example", "localhost:80", "127.0.0.1"):
            assert rest.get("/v2", host=host).status == 200
            assert rest.post("/v2/repository/models/gather/load", host=host, origin=f"https://{host}").status == 200
        for host in ("evil.example", "example", "a.models.example", "12345"):
            answer = rest.get("/v2", host=host)
            assert (answer.status, "--allowed-host" in answer.error) == (403, True)
            assert rest.infer(request("gather", index=index(1)), host=host).status == 403
            assert rest.get("/v2/health/ready", host=host).status == 200  # health probes may use any host name
