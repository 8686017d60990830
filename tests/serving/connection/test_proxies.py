"""Clients use the proxies that environment variables name. test_retries covers the errors that proxies return."""

import re
from collections.abc import Iterator

import grpc
import pytest

from hangtag import Client, ConnectionOptions, UserError
from tests.kit.command import invoke, refusal
from tests.kit.kinds import Kind, grpc_kinds, http_kinds, message_of
from tests.kit.other_servers import Answer, hang_up, listener, web_server

NEVER = ConnectionOptions(retries=0)
SERVER = "models.invalid:8000"
"""A host name without an address: RFC 2606 reserves the domain .invalid."""
INDEX = "/v2/repository/index"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def refused(address: str) -> str:
    """Require that no client can be created for an address, and return the reason."""
    with pytest.raises(UserError) as caught:
        Client(address)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


OTHER_SCHEMES = ["htp://x", "socks4://127.0.0.1:1", "socks5://127.0.0.1:1", "file:///etc/passwd"]
WRONG_PORTS = ["http://127.0.0.1:99999", "127.0.0.1:99999", "http://x:0", "http://x:y"]
NO_HOSTS = ["http://x:1\n", "::::", "http://", "http://[::1", "http://[::::]:1", "http://\udcff:1"]


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [("HTTP_PROXY", "http"), ("http_proxy", "http"), ("HTTPS_PROXY", "https"), ("ALL_PROXY", "http")],
)
@pytest.mark.parametrize("value", [*OTHER_SCHEMES, *WRONG_PORTS, *NO_HOSTS, "htp://anna:se/cr@et@proxy.example:1"])
def test_a_value_that_is_no_url_of_a_proxy_is_named(
    variable: str, scheme: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    message = refused(f"{scheme}://{SERVER}")
    assert message.startswith(f"the value of {variable} is not a usable proxy's URL")
    assert "NO_PROXY" in message
    assert "cr@et" not in message


def test_a_variable_that_does_not_apply_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "::::")
    Client(f"http://{SERVER}")
    monkeypatch.setenv("HTTP_PROXY", "::::")
    monkeypatch.setenv("NO_PROXY", "[, ::::, \udcff, .invalid")
    Client(f"http://{SERVER}")
    Client(SERVER)


def failure(kind: Kind, address: str = SERVER) -> str:
    with kind.open(address, options=NEVER) as client:
        return message_of(grpc.StatusCode.UNAVAILABLE, client.models)


@http_kinds
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("at", ["127.0.0.1:1", "proxy.invalid:1"])
def test_a_proxy_that_does_not_answer_is_named(
    kind: Kind, variable: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://anna:secret@{at}")
    message = failure(kind)
    assert f"no server answers at {kind.text(SERVER)} (" in message
    assert f", through the proxy that {variable} names); correct or unset {variable}, " in message
    assert message.endswith("NO_PROXY")
    assert "secret" not in message


@grpc_kinds
@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_over_grpc_a_variable_that_may_name_the_proxy_is_named(
    kind: Kind, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://anna:secret@127.0.0.1:1")
    message = failure(kind)
    assert f"; {variable} is set, so gRPC connects through this proxy unless no_proxy lists " in message
    assert "secret" not in message
    monkeypatch.setenv(variable, "socks5://127.0.0.1:1")  # gRPC ignores it
    assert variable not in failure(kind)


@http_kinds
def test_a_proxy_that_hangs_up_is_named(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(hang_up) as address:
        monkeypatch.setenv("http_proxy", f"http://{address}")
        assert "through the proxy that http_proxy names); correct or unset http_proxy, " in failure(kind)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a server to which HTTP_PROXY points, and the paths that clients requested from it."""
    paths: list[str] = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, {}, b"[]" if "index" in path else b"{}" if "stats" in path else b""

    with web_server(answer) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        yield address, paths


# Names under .invalid have no address, and nothing listens at port 1, so calls that bypass the proxy fail.
@http_kinds
@pytest.mark.parametrize(
    ("address", "exempting", "others"),
    [
        (
            SERVER,
            ["models.invalid", "localhost, .invalid", SERVER, "*"],
            ["", "dels.invalid", "models.invalid:9000"],
        ),
        ("127.0.0.1:1", ["127.0.0.1"], ["localhost"]),
        ("[::1]:1", ["::1"], []),
    ],
)
def test_the_proxy_is_used_but_for_hosts_that_need_none(
    kind: Kind,
    asked: tuple[str, list[str]],
    address: str,
    exempting: list[str],
    others: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for exempt in others:
        monkeypatch.setenv("NO_PROXY", exempt)
        with kind.open(address, options=NEVER) as client:
            assert client.models() == [], exempt
    assert asked[1] == [f"http://{address}{INDEX}"] * len(others)
    for exempt in exempting:
        monkeypatch.setenv("NO_PROXY", exempt)
        assert re.search(r"the host of .* is unknown|no server answers", failure(kind, address)), exempt


def test_top_reads_metrics_through_the_same_proxy(
    asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, paths = asked
    metrics = f"http://{SERVER}/metrics"
    arguments = ["top", "--once", "--interval", "0.1", "--metrics", metrics, "--server", f"http://{address}"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    invoke(*arguments)
    assert paths.count(metrics) == 2
    monkeypatch.setenv("HTTP_PROXY", "::::")
    assert refusal(*arguments, alone=True).startswith("the value of HTTP_PROXY is not a usable proxy's URL")
