"""How a client reaches a server: addresses, TLS files, tokens, and the command-line options for these."""

import socket
from pathlib import Path

import grpc
import pytest

from hangtag import Client, Credentials, CredentialsError, UserError
from tests.kit.command import refusal


@pytest.mark.parametrize(
    "text",
    [
        "gpu-1.example.org:8001",
        "localhost:1",
        "[::1]:65535",
        "dns:///gpu-1:8001",
        "unix:/run/hangtag.sock",
        "ipv4:10.0.0.11:8001,10.0.0.12:8001",
        "ipv6:[::1]:8001,[::2]:8001",
        "http://gpu-1/tenant/a",
        "HTTPS://[::1]",
        "https://[::1]:8443/",
    ],
)
def test_what_an_address_may_be(text: str) -> None:
    Client(text).close()


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        *((text, "HOST:PORT") for text in ("", "127.0.0.1", "8001", ":8001", "a:0", "a:65536", "::1:8001", "[::1]")),
        ("a b:1", "HOST:PORT"),
        *((text, "HOST:PORT without a scheme (for TLS") for text in ("grpc://gpu-1:8001", "grpcs://gpu-1")),
        *((text, "http://HOST:PORT") for text in ("http://", "http://:8000", "http://a:0", "http://a:99999")),
        *((text, "not a server's URL") for text in ("http://a b", "http://a/?q=1", "https://[x")),
    ],
)
def test_other_texts_are_refused_before_any_call(text: str, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        Client(text)
    assert advice in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_token_is_the_files_first_line_as_it_stands_now(tmp_path: Path) -> None:
    assert Credentials().metadata() == ()
    file = tmp_path / "token"
    file.write_text("first \nanother\n")
    credentials = Credentials(token_file=str(file))
    assert credentials.metadata() == (("authorization", "Bearer first"),)
    file.write_text("renewed")
    assert credentials.metadata() == (("authorization", "Bearer renewed"),)


@pytest.mark.parametrize("content", [b"", b"\n\n", b" ", b"\xff\xfe", "schl\u00fcssel".encode(), b"a\x00b", None])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(CredentialsError, match=r"token \(--token-file\) "):
        Credentials(token_file=tmp_path / "token").metadata()


def test_a_handshake_may_take_its_time() -> None:
    """A client waits for a slow handshake. Here, the server never answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Credentials().channel(f"127.0.0.1:{silent.getsockname()[1]}") as channel,
    ):
        grpc.channel_ready_future(channel)
        caller, _ = silent.accept()
        caller.settimeout(1)
        with caller, caller.makefile("rb") as received, pytest.raises(TimeoutError):
            received.read()  # returns if the client closes the connection


@pytest.mark.parametrize(
    ("arguments", "variables", "exit_code", "fact"),
    [
        *((f"--tls-{name} k", {}, 2, "--tls-cert and --tls-key") for name in ("cert", "key")),
        ("", {"HANGTAG_TLS_CERT": "c", "HANGTAG_TLS_KEY": "k"}, 2, "give --tls-ca"),
        ("", {"HANGTAG_TLS_CA": "gone"}, 1, "gone (--tls-ca) cannot be read"),
        ("", {"HANGTAG_TOKEN_FILE": "gone"}, 2, "gone (--token-file) cannot be read"),
        ("--server 8001", {"HANGTAG_SERVER": "127.0.0.1:1"}, 2, "HOST:PORT"),
        ("", {"HANGTAG_SERVER": "127.0.0.1:1"}, 1, "no server answers at 127.0.0.1:1;"),
    ],
)
def test_the_options_of_commands_and_their_shared_variables(
    arguments: str, variables: dict[str, str], exit_code: int, fact: str
) -> None:
    assert fact in refusal("health", *arguments.split(), exit_code=exit_code, variables=variables)
