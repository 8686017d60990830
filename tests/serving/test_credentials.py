import socket
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner

from hangtag.serving.credentials import Credentials, CredentialsError
from hangtag.serving.options import credentials_options


def test_without_anything_there_is_no_metadata() -> None:
    assert Credentials().metadata() == ()


def test_the_token_is_the_files_first_line_as_it_stands_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first \nanother\n")
    credentials = Credentials(token_file=file)
    assert credentials.metadata() == (("authorization", "Bearer first"),)
    file.write_text("renewed")
    assert credentials.metadata() == (("authorization", "Bearer renewed"),)


def test_paths_may_be_texts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.pem").write_text("no certificate")
    credentials = Credentials(tls_ca=str(tmp_path / "ca.pem"), token_file=str(tmp_path / "token"))
    assert credentials.metadata() == (("authorization", "Bearer first"),)
    with pytest.raises(CredentialsError, match="holds no certificate"):
        credentials.channel("127.0.0.1:1")
    with pytest.raises(CredentialsError, match="holds no certificate"):
        credentials.ssl_context("https://127.0.0.1:1")


@pytest.mark.parametrize("content", [b"", b"\n\n", b" ", b"\xff\xfe", "schl\u00fcssel".encode(), b"a\x00b"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(CredentialsError, match=r"token \(--token-file\) (holds no token|is not a text file)"):
        Credentials(token_file=tmp_path / "token").metadata()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"gone \(--token-file\) cannot be read: No such file"):
        Credentials(token_file=tmp_path / "gone").metadata()
    with pytest.raises(CredentialsError, match=r"gone \(--tls-ca\) cannot be read: No such file"):
        Credentials(tls_ca=tmp_path / "gone").channel("127.0.0.1:1")


def test_an_authority_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(CredentialsError, match=r"ca\.pem \(--tls-ca\) holds no certificate in PEM form"):
        Credentials(tls_ca=tmp_path / "ca.pem").channel("127.0.0.1:1")


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
    given: list[Credentials] = []

    @click.command()
    @credentials_options
    def command(credentials: Credentials) -> None:
        given.append(credentials)

    variables = {"HANGTAG_TOKEN_FILE": str(tmp_path / "token"), "HANGTAG_TLS_CA": "ca.pem"}
    assert CliRunner().invoke(command, ["--tls-cert", "c", "--tls-key", "k"], env=variables).exit_code == 0
    assert given == [Credentials(Path("ca.pem"), Path("c"), Path("k"), tmp_path / "token")]
    for arguments, message in (
        (["--tls-key", "k"], "give --tls-cert and --tls-key together."),
        (["--token-file", str(tmp_path / "gone")], "cannot be read: No such file or directory."),
    ):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 2
        assert message in result.output
    assert len(given) == 1
