"""What names a server, and how a client proves itself: addresses, TLS files, tokens, and the options of commands."""

import socket
from pathlib import Path

import click
import grpc
import pytest

from hangtag import Client, UserError
from hangtag.serving import address
from hangtag.serving.credentials import Credentials, CredentialsError
from hangtag.serving.options import credentials_options, server_option
from tests.kit.command import invoke


@pytest.mark.parametrize(
    ("text", "endpoint", "authority"),
    [
        ("gpu-1.example.org:8001", ("gpu-1.example.org", 8001), ""),
        ("localhost:1", ("localhost", 1), ""),
        ("[::1]:65535", ("::1", 65535), ""),
        ("dns:///gpu-1:8001", ("gpu-1", 8001), ""),
        ("ipv4:10.0.0.11:8001", ("10.0.0.11", 8001), ""),
        ("ipv4:10.0.0.11:8001,10.0.0.12:8001", None, "10.0.0.11:8001"),  # calls to several carry the first one's
        ("ipv6:[::1]:8001,[::2]:8001", None, "[::1]:8001"),
        ("unix:/run/hangtag.sock", None, ""),
        ("http://gpu-1/tenant/a", ("gpu-1", 80), ""),
        ("HTTPS://[::1]", ("::1", 443), ""),
        ("https://[::1]:8443/", ("::1", 8443), ""),
    ],
)
def test_what_an_address_names(text: str, endpoint: tuple[str, int] | None, authority: str) -> None:
    address.require(text)
    assert (address.endpoint(text), address.authority(text)) == (endpoint, authority)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        *((text, "HOST:PORT") for text in ("", "127.0.0.1", "8001", ":8001", "a:0", "a:65536", "::1:8001", "[::1]")),
        ("a b:1", "HOST:PORT"),
        ("grpc://gpu-1:8001", "write gpu-1:8001"),
        ("grpcs://gpu-1:8001", "write gpu-1:8001; for TLS add --tls-ca"),
        ("grpc://gpu-1", "write gpu-1:PORT"),
        *((text, "http://HOST:PORT") for text in ("http://", "http://:8000", "http://a:0", "http://a:99999")),
        *((text, "no URL of a server") for text in ("http://a b", "http://a/?q=1", "https://[x")),
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


def test_files_that_do_not_fit_together_are_refused() -> None:
    file = Path("file")
    for cert, key in ((file, None), (None, file)):
        with pytest.raises(CredentialsError, match="give --tls-cert and --tls-key together"):
            Credentials(tls_ca=file, tls_cert=cert, tls_key=key)
    with pytest.raises(CredentialsError, match="give --tls-ca"):
        Credentials(tls_cert=file, tls_key=file)


def test_a_handshake_may_take_its_time() -> None:
    """As over a far network, or with a machine under load. Here the server never answers it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Credentials().channel(f"127.0.0.1:{silent.getsockname()[1]}") as channel,
    ):
        grpc.channel_ready_future(channel)
        caller, _ = silent.accept()
        caller.settimeout(1)
        with caller, caller.makefile("rb") as received, pytest.raises(TimeoutError):
            received.read()  # returns when the caller closes the connection


def test_the_options_and_their_shared_variables(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    given: list[tuple[str, Credentials]] = []

    @click.command()
    @server_option
    @credentials_options
    def command(server: str, credentials: Credentials) -> None:
        given.append((server, credentials))

    variables = {
        "HANGTAG_SERVER": "gpu-1:8001",
        "HANGTAG_TOKEN_FILE": str(tmp_path / "token"),
        "HANGTAG_TLS_CA": "ca.pem",
    }
    invoke("--tls-cert", "c", "--tls-key", "k", command=command, variables=variables)
    assert given == [("gpu-1:8001", Credentials(Path("ca.pem"), Path("c"), Path("k"), tmp_path / "token"))]
    for arguments, fact in (
        (["--tls-key", "k"], "--tls-cert and --tls-key"),
        (["--token-file", str(tmp_path / "gone")], "cannot be read"),
        (["--server", "8001"], "HOST:PORT"),
    ):
        assert fact in " ".join(invoke(*arguments, command=command, exit_code=2).output.split())
    assert len(given) == 1
