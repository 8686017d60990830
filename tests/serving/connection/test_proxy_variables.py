"""Variables that name a proxy: one that is no URL, SOCKS, and a proxy that gives no connection, in every client."""

import contextlib
import os
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.cli import main
from hangtag.serving.address import AddressError
from hangtag.serving.client import AsyncClient, Client, ClientError, ConnectionOptions
from tests.kit.kinds import KINDS, Kind, every_kind
from tests.kit.web_server import Answer, web_server

NEVER = ConnectionOptions(retries=0)
SERVER = "models.invalid:8000"
"""No server: no name of .invalid has an address."""
GARMENT = Path("examples/garments/bag-1.png")
COMMANDS = [
    "health",
    f"classify {GARMENT}",
    "top --once",
    "loadtest cnn --yes-load-remote",
    "models unload cnn",
    "evaluate cnn",
]
every_class = pytest.mark.parametrize("kind", [Client, AsyncClient])
http_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)
grpc_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def hangtag(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@every_class
@pytest.mark.parametrize(
    ("variable", "scheme"),
    [("HTTP_PROXY", "http"), ("http_proxy", "http"), ("HTTPS_PROXY", "https"), ("ALL_PROXY", "http")],
)
@pytest.mark.parametrize(
    "value",
    [
        *("::::", "http://", "htp://x", "http://127.0.0.1:99999", "127.0.0.1:99999", "http://x:0", "http://x:y"),
        *(" ", "http://a b:1", " http://x:1", "http://x:1\n", "http://[::1", "http://[::::]:1", "http://a..b:1"),
        *("http://\udcff:1", "socks4://127.0.0.1:1", "file:///etc/passwd", "http://a|b"),
    ],
)
def test_a_value_that_is_no_url_of_a_proxy_is_named(
    kind: type[Client] | type[AsyncClient], variable: str, scheme: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(AddressError) as caught:
        kind(f"{scheme}://{SERVER}")
    assert str(caught.value) == (
        f"{variable} is {value!r}, which is no URL of a proxy: write http://HOST:PORT, unset {variable}, or add the "
        "server's host to NO_PROXY"
    )


def test_the_variable_that_counts_is_named_where_two_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "::::")
    with pytest.raises(AddressError, match=r"^http_proxy is '::::'"):
        Client(f"http://{SERVER}")


@every_class
def test_a_password_is_not_shown(kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "htp://anna:se/cr@et@proxy.example:1")
    with pytest.raises(AddressError, match=r"HTTP_PROXY is 'htp://proxy\.example:1', which is no URL"):
        kind(f"http://{SERVER}")


@every_class
@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1"])
def test_socks_says_which_package_is_missing(
    kind: type[Client] | type[AsyncClient], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(AddressError) as caught:
        kind(f"http://{SERVER}")
    assert str(caught.value) == (
        "ALL_PROXY names a SOCKS proxy, which needs the Python package socksio: install it (pip install socksio), name "
        "a proxy for HTTP, unset ALL_PROXY, or add the server's host to NO_PROXY"
    )


@every_class
def test_a_variable_that_does_not_apply_is_not_read(
    kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "::::")
    kind(f"http://{SERVER}")
    monkeypatch.setenv("HTTP_PROXY", "::::")
    monkeypatch.setenv("NO_PROXY", "[, ::::, 10.0.0.0/99, \udcff, .invalid")
    kind(f"http://{SERVER}")
    kind(SERVER)


@pytest.mark.parametrize("value", ["::::", "socks5://127.0.0.1:1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_it_in_one_line(command: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    result = hangtag(*command.split(), "--server", f"http://{SERVER}")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("Error: HTTP_PROXY ")
    assert "unset HTTP_PROXY, or add the server's host to NO_PROXY" in result.stderr


def test_top_reads_metrics_through_the_same_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, {}, b"{}" if "stats" in path else b""

    metrics = f"http://{SERVER}/metrics"
    arguments = ["top", "--once", "--interval", "0.1", "--metrics", metrics]
    with web_server(answer) as address:
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert hangtag(*arguments, "--server", f"http://{address}").exit_code == 0
        assert paths.count(metrics) == 2
        monkeypatch.setenv("HTTP_PROXY", "::::")
        result = hangtag(*arguments, "--server", f"http://{address}")
    assert result.stderr.startswith("Error: HTTP_PROXY is '::::', which is no URL of a proxy")


def failure(kind: Kind, address: str = SERVER) -> str:
    with kind.open(address, options=NEVER) as client, pytest.raises(ClientError) as caught:
        client.models()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    return str(caught.value)


@http_kinds
@pytest.mark.parametrize("proxy_at", ["127.0.0.1:1", "proxy.invalid:1"])
def test_a_proxy_that_does_not_answer_is_named(kind: Kind, proxy_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://anna:secret@{proxy_at}")
    message = failure(kind)
    assert message.startswith(f"no connection to http://{SERVER} through the proxy http://{proxy_at}, which HTTP_PROXY")
    assert message.endswith(": correct or unset HTTP_PROXY, or add the server's host to NO_PROXY")


@grpc_kinds
@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_that_grpc_finds_in_the_environment_is_named(
    kind: Kind, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://anna:secret@127.0.0.1:1")
    message = failure(kind)
    assert message.startswith(
        f"no connection to {SERVER} through the proxy http://127.0.0.1:1, which {variable} names ("
    )
    assert message.endswith(f": correct or unset {variable}, or add the server's host to no_proxy")


@every_kind
def test_a_wait_behind_a_proxy_that_does_not_answer_names_it(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    rarely = ConnectionOptions(initial_backoff=60, max_backoff=60)  # the wait ends in a pause
    with kind.open(SERVER, options=rarely) as client, pytest.raises(ClientError) as caught:
        client.wait_until_ready(0.5)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    through = f"no connection to {kind.text(SERVER)} through the proxy http://127.0.0.1:1, which http_proxy names"
    assert str(caught.value).startswith(through)


@grpc_kinds
@pytest.mark.parametrize(
    ("variable", "value"),
    [("http_proxy", "::::"), ("http_proxy", "socks5://127.0.0.1:1"), ("no_grpc_proxy", "models.invalid")],
)
def test_a_proxy_that_grpc_leaves_out_is_not_named(
    kind: Kind, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    assert failure(kind).startswith(f"the host of {SERVER} is unknown")


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20) | st.builds(
    "{}://{}:{}".format,
    st.sampled_from(["http", "https", "socks5", "HTTP", "htp"]),
    st.text("[]:@%/.0a1-_ü~|^", max_size=12),
    st.integers(-1, 70_000),
)


@settings(max_examples=300, deadline=None)
@given(value=VALUES, exempt=VALUES)
def test_any_value_makes_a_client_or_is_named(value: str, exempt: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "HTTP_PROXY", value)
        patch.setitem(os.environ, "NO_PROXY", exempt)
        patch.setitem(os.environ, "http_proxy", "")
        for kind in (Client, AsyncClient):
            with contextlib.suppress(AddressError):
                kind(f"http://{SERVER}")
