"""TLS that does not come about: every client and every command names the cause, over gRPC and over HTTP alike."""

import datetime
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.serving.client import AsyncClient, Client, ClientError, ConnectionOptions, Credentials
from hangtag.serving.credentials import CredentialsError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind, every_kind

NEVER = ConnectionOptions(retries=0)
ONCE = ConnectionOptions(retries=0, initial_backoff=60, max_backoff=60)
"""A wait over HTTP ends in the pause after its first call: httpx2 closes no socket whose handshake a deadline ends."""
DAY = datetime.timedelta(days=1)


class Certificates:
    """Two authorities, the certificates that they issued, and servers that use them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._servers: dict[tuple[str | None, bool], Server] = {}
        ours, strangers = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(str(folder / "ours.pem"))
        strangers.cert_pem.write_to_path(str(folder / "strangers.pem"))
        now = datetime.datetime.now(datetime.UTC)
        self._write("good", ours.issue_cert("127.0.0.1"))
        self._write("other-host", ours.issue_cert("other.example", "*.models.example"))
        self._write("expired", ours.issue_cert("127.0.0.1", not_before=now - 2 * DAY, not_after=now - DAY))
        self._write("early", ours.issue_cert("127.0.0.1", not_before=now + DAY, not_after=now + 2 * DAY))
        self._write("client", ours.issue_cert("client.example"))
        self._write("stranger", strangers.issue_cert("client.example"))
        onnx_models.publish(folder / "models", "gather", onnx_models.gather())

    def _write(self, name: str, certificate: trustme.LeafCert) -> None:
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.path(name)))

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"

    def server(self, certificate: str | None, *, clients: bool = False) -> Server:
        """A server with a certificate; ``clients``: one that demands a client's certificate of ours."""
        if (certificate, clients) not in self._servers:
            config = ServerConfig(
                models=self._folder / "models",
                port=0,
                http_port=0,
                tls_cert=self.path(certificate) if certificate else None,
                tls_key=self.path(certificate) if certificate else None,
                tls_client_ca=self.path("ours") if clients else None,
            )
            self._servers[certificate, clients] = self._stack.enter_context(Server(config))
        return self._servers[certificate, clients]

    def credentials(self, authority: str | None, own: str | None = None) -> Credentials:
        ca = self.path(authority) if authority else None
        return Credentials(ca, *((self.path(own), self.path(own)) if own else ()))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    with ExitStack() as stack:
        yield Certificates(tmp_path_factory.mktemp("certificates"), stack)


def failure(client: Client) -> ClientError:
    with pytest.raises(ClientError) as caught:
        client.models()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    return caught.value


@every_kind
@pytest.mark.parametrize(
    ("certificate", "clients", "authority", "own", "message"),
    [
        (
            *("other-host", False, "ours", None),
            "the certificate of ADDRESS is for other.example, *.models.example, not for 127.0.0.1: call the server by "
            "a name in its certificate, or give it a certificate for 127.0.0.1",
        ),
        (*("expired", False, "ours", None), "the certificate of ADDRESS has expired: renew it"),
        (*("early", False, "ours", None), "the certificate of ADDRESS is not valid yet: compare the clocks"),
        (
            *("good", False, "strangers", None),
            "the certificate of ADDRESS was not signed by an authority in FOLDER/strangers.pem (--tls-ca): --tls-ca "
            "must name the authority that signed it",
        ),
        (
            *("good", True, "ours", None),
            "the server at ADDRESS closes the connection after the TLS handshake, as servers do that verify their "
            "clients: give a client certificate (--tls-cert, --tls-key)",
        ),
        (
            *("good", True, "ours", "stranger"),
            "the server at ADDRESS closes the connection after the TLS handshake, as servers do that verify their "
            "clients: FOLDER/stranger.pem (--tls-cert) must be signed by an authority",
        ),
    ],
)
def test_the_cause_is_named(
    kind: Kind,
    certificates: Certificates,
    certificate: str,
    clients: bool,
    authority: str,
    own: str | None,
    message: str,
) -> None:
    server = certificates.server(certificate, clients=clients)
    with kind.open(kind.of(server), credentials=certificates.credentials(authority, own), options=NEVER) as client:
        expected = message.replace("ADDRESS", kind.text(kind.of(server), tls=True))
        assert str(failure(client)).startswith(expected.replace("FOLDER", str(certificates.path("ours").parent)))


@every_kind
def test_a_wait_names_the_cause(kind: Kind, certificates: Certificates) -> None:
    server = certificates.server("expired")
    with kind.open(kind.of(server), credentials=certificates.credentials("ours"), options=ONCE) as client:
        with pytest.raises(ClientError) as caught:
            client.wait_until_ready(1)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert str(caught.value) == str(failure(client))


@every_kind
@pytest.mark.parametrize("clients", [False, True])
def test_a_server_with_tls_that_is_called_without_it(kind: Kind, certificates: Certificates, clients: bool) -> None:
    server = certificates.server("good", clients=clients)
    with kind.open(kind.of(server), options=NEVER) as client:
        remedy = f"write https://{kind.of(server)}" if kind.http else "give --tls-ca, the authority of its certificate"
        assert str(failure(client)) == f"the server at {kind.text(kind.of(server))} wants TLS: {remedy}"


@every_kind
def test_a_server_without_tls_that_is_called_with_it(kind: Kind, certificates: Certificates) -> None:
    server = certificates.server(None)
    with kind.open(kind.of(server), credentials=certificates.credentials("ours"), options=NEVER) as client:
        remedy = f"write http://{kind.of(server)}" if kind.http else "leave out --tls-ca"
        address = kind.text(kind.of(server), tls=True)
        assert str(failure(client)) == f"the server at {address} does not use TLS: {remedy}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_the_port_for_https_is_no_grpc_port(kind: Kind, certificates: Certificates) -> None:
    address = certificates.server("good").http_address
    with kind.open(address, credentials=certificates.credentials("ours"), options=NEVER) as client:
        assert f"the port at {address} speaks TLS, but not gRPC: give --server the gRPC port" in str(failure(client))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_of_several_servers_grpcs_own_words_tell_the_cause(kind: Kind, certificates: Certificates) -> None:
    address = certificates.server("expired").address
    with kind.open(f"ipv4:{address},{address}", credentials=certificates.credentials("ours"), options=NEVER) as client:
        assert re.search(
            rf"no server answers at ipv4:{address},{address} \(.*expired.*\); start one", str(failure(client))
        )


@contextmanager
def hanging_up() -> Iterator[str]:
    """HOST:PORT of a listener that ends each connection, as a load balancer does that has no server."""

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@every_kind
@pytest.mark.parametrize("authority", [None, "ours"])
def test_a_listener_that_says_nothing_is_not_accused_of_its_tls(
    kind: Kind, certificates: Certificates, authority: str | None
) -> None:
    credentials = certificates.credentials(authority)
    with hanging_up() as address, kind.open(address, credentials=credentials, options=NEVER) as client:
        said = str(failure(client))
    assert not re.search("does not use TLS|wants TLS|certificate of", said), said


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_authorities_of_the_environment_that_are_missing_are_named(
    kind: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(CredentialsError, match="SSL_CERT_FILE or SSL_CERT_DIR names cannot be read"):
        kind("https://127.0.0.1:1")


@pytest.mark.parametrize("http", [False, True], ids=["gRPC", "HTTP"])
@pytest.mark.parametrize(
    "command",
    [
        "health",
        "health --wait 0.3",
        "classify examples/garments/bag-1.png",
        "top --once",
        "loadtest gather",
        "models load gather",
        "evaluate gather",
    ],
)
def test_every_command_says_the_same(certificates: Certificates, command: str, http: bool) -> None:
    server = certificates.server("other-host")
    address = f"https://{server.http_address}" if http else server.address
    arguments = [*command.split(), "--server", address, "--tls-ca", str(certificates.path("ours"))]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"the certificate of {address} is for other.example, *.models.example, not for 127.0.0.1: " in result.stderr
    assert result.stderr.count("\n") == 1
