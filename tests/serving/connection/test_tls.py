"""TLS and tokens between a client and its server. If TLS fails, every client names the cause."""

import datetime
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from hangtag import Client, ConnectionOptions, Credentials, CredentialsError
from hangtag.serving.server.process.server import Server
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.command import invoke
from tests.kit.kinds import Kind, grpc_kinds, http_kinds, message_of
from tests.kit.other_servers import hang_up, listener
from tests.kit.server import server as running_server

NEVER = ConnectionOptions(retries=0)
ONCE = ConnectionOptions(retries=0, initial_backoff=60, max_backoff=60)
"""The deadline must expire during the backoff. If it expired in a TLS handshake, httpx2 would leave the socket open."""
DAY = datetime.timedelta(days=1)
over_both = pytest.mark.parametrize("http", [False, True], ids=["gRPC", "HTTP"])


class Servers:
    """Servers with different certificates. Each server is started once."""

    def __init__(self, certificates: Certificates, models: Path, stack: ExitStack) -> None:
        self.certificates, self._models, self._stack = certificates, models, stack
        self._servers: dict[tuple[str | None, bool], Server] = {}
        now = datetime.datetime.now(datetime.UTC)
        for name, hosts, validity in (
            ("other-host", ["other.example", "*.models.example"], {}),
            ("expired", [], {"not_before": now - 2 * DAY, "not_after": now - DAY}),
            ("early", [], {"not_before": now + DAY, "not_after": now + 2 * DAY}),
        ):
            certificates.issue(name, "ours", *hosts, **validity)

    def get(self, certificate: str | None, *, clients: bool = False) -> Server:
        """A server with this certificate. If ``clients`` is True, the server requires a client's certificate from
        ``ours``."""
        if (certificate, clients) not in self._servers:
            tls: dict[str, Any] = {}
            if certificate:
                tls = {"tls_cert": self.certificates.cert(certificate), "tls_key": self.certificates.key(certificate)}
            if clients:
                tls["tls_client_ca"] = self.certificates.ca()
            self._servers[certificate, clients] = self._stack.enter_context(running_server(self._models, **tls))
        return self._servers[certificate, clients]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def servers(certificates: Certificates, models: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(certificates, models, stack)


def failure(client: Client, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> str:
    return message_of(code, client.models)


@pytest.fixture(scope="module")
def secured(certificates: Certificates, models: Path) -> Iterator[tuple[Server, Credentials]]:
    """A server that requires a client's certificate and a token, and credentials that the server accepts."""
    (token := certificates.folder / "tokens").write_text(f"{TOKEN}\n")
    settings = certificates.server(tls_client_ca=certificates.ca(), token_file=token)
    with running_server(models, **settings) as server:
        yield server, replace(certificates.client(), token_file=token)


def test_a_clients_certificate_and_a_token_open_a_server(kind: Kind, secured: tuple[Server, Credentials]) -> None:
    server, mine = secured
    with kind.open(kind.of(server), credentials=mine) as client:
        assert client.infer("gather", {"index": np.array([2])})["value"].tolist() == [20]
    with kind.open(kind.of(server), credentials=replace(mine, token_file=None), options=NEVER) as client:
        assert "token" in failure(client, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize(
    ("certificate", "clients", "authority", "own", "facts"),
    [
        ("other-host", False, "ours", None, "not valid for '127.0.0.1'"),
        ("expired", False, "ours", None, "has expired"),
        ("early", False, "ours", None, "not yet valid"),
        (
            "server-of-ours",
            False,
            "strangers",
            None,
            "issuer certificate; --tls-ca names the authority that signed its",
        ),
        ("server-of-ours", True, "ours", None, "CERTIFICATE_REQUIRED; client certificate (--tls-cert, --tls-key)"),
        ("server-of-ours", True, "ours", "client-of-strangers", "ALERT"),
    ],
)
def test_the_cause_is_named(
    kind: Kind, servers: Servers, certificate: str, clients: bool, authority: str, own: str | None, facts: str
) -> None:
    server, files = servers.get(certificate, clients=clients), servers.certificates
    mine = Credentials(files.ca(authority), *((files.cert(own), files.key(own)) if own else ()))
    with kind.open(kind.of(server), credentials=mine, options=NEVER) as client:
        message = failure(client)
    assert kind.text(kind.of(server), tls=True) in message
    assert all(fact in message for fact in facts.split("; ")), message


def test_a_wait_names_the_cause(kind: Kind, servers: Servers) -> None:
    server, mine = servers.get("expired"), servers.certificates.client(by=None)
    with kind.open(kind.of(server), credentials=mine, options=ONCE) as client:
        message = message_of(grpc.StatusCode.DEADLINE_EXCEEDED, client.wait_until_ready, 1)
        assert "has expired" in message
        assert message.endswith(failure(client))


@pytest.mark.parametrize("clients", [False, True])
def test_a_server_with_tls_that_is_called_without_it(kind: Kind, servers: Servers, clients: bool) -> None:
    """The client finds out the cause by at most two connections, of at most 2 s each."""
    address = kind.of(servers.get("server-of-ours", clients=clients))
    with (
        kind.open(address, options=NEVER) as client,
        mock.patch.object(socket, "create_connection", wraps=socket.create_connection) as connect,
    ):
        remedy = f"write https://{address}" if kind.http else "--tls-ca must name"
        assert f"{kind.text(address)} requires TLS: {remedy}" in failure(client)
    limits = [each.args[1] for each in connect.call_args_list]
    assert 1 <= len(limits) <= 2
    assert max(limits) <= 2


def test_a_server_without_tls_that_is_called_with_it(kind: Kind, servers: Servers) -> None:
    address, mine = kind.of(servers.get(None)), servers.certificates.client(by=None)
    with kind.open(address, credentials=mine, options=NEVER) as client:
        assert f"no TLS connection to {kind.text(address, tls=True)} (WRONG_VERSION_NUMBER): " in failure(client)


@grpc_kinds
def test_the_port_for_https_is_no_grpc_port(kind: Kind, servers: Servers) -> None:
    address, mine = servers.get("server-of-ours").http_address, servers.certificates.client(by=None)
    with kind.open(address, credentials=mine, options=NEVER) as client:
        assert "this port is for HTTP; gRPC is on port" in failure(client, grpc.StatusCode.UNIMPLEMENTED)


@grpc_kinds
@pytest.mark.parametrize(("protocol", "fact"), [("http/1.1", "speaks TLS, but not gRPC"), ("h2", "--tls-cert")])
def test_a_server_that_accepts_no_call(kind: Kind, certificates: Certificates, protocol: str, fact: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.cert("server-of-ours"), certificates.key("server-of-ours"))
    tls.set_alpn_protocols([protocol])
    mine = certificates.client(by=None)
    with (
        listener(lambda connection, _: tls.wrap_socket(connection, server_side=True).close()) as address,
        kind.open(address, credentials=mine, options=NEVER) as client,
    ):
        assert fact in failure(client)


@grpc_kinds
def test_of_several_servers_grpcs_own_words_tell_the_cause(kind: Kind, servers: Servers) -> None:
    address, mine = servers.get("expired").address, servers.certificates.client(by=None)
    with kind.open(f"ipv4:{address},{address}", credentials=mine, options=NEVER) as client:
        assert re.search(rf"no server answers at ipv4:{address},{address} \(.*expired.*\)", failure(client))


@pytest.mark.parametrize("tls", [False, True])
def test_a_listener_that_says_nothing_is_not_accused_of_its_tls(
    kind: Kind, certificates: Certificates, tls: bool
) -> None:
    mine = certificates.client(by=None) if tls else Credentials()
    with listener(hang_up) as address, kind.open(address, credentials=mine, options=NEVER) as client:
        message = failure(client)
    assert not re.search("no TLS connection|requires TLS", message), message


COMMANDS = {
    "health": (0, "is ready"),
    "health --wait 0.3": (0, "is ready"),
    "classify examples/garments/bag-1.png --model classifier": (0, "label "),
    "top --once --interval 0.1": (0, "two_inputs"),
    "loadtest gather --min-duration 0.1 --min-query-count 10 --blocks 1": (None, "gather"),
    "models load gather": (1, "--model-control explicit"),
    "models unload gather": (1, "--model-control explicit"),
    "evaluate gather --data fashion-mnist": (1, "gather"),
}
"""Commands, each with its exit code (None if it depends on the machine's load) and a part of its output."""


@over_both
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_sends_its_certificate_and_its_token(
    secured: tuple[Server, Credentials], command: str, http: bool
) -> None:
    server, mine = secured
    address = f"https://{server.http_address}" if http else server.address
    certificate = ("--tls-ca", mine.tls_ca, "--tls-cert", mine.tls_cert, "--tls-key", mine.tls_key)
    arguments = (*command.split(), "--server", address, *certificate)
    exit_code, part = COMMANDS[command]
    reached = invoke(*arguments, "--token-file", mine.token_file, exit_code=exit_code)
    assert part in reached.output
    assert "token" not in reached.output
    if not command.startswith("health"):  # health checks need no token
        assert "this server requires a token" in invoke(*arguments, exit_code=1).stderr


@over_both
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_the_same(servers: Servers, command: str, http: bool) -> None:
    server = servers.get("other-host")
    address = f"https://{server.http_address}" if http else server.address
    arguments = (*command.split(), "--server", address, "--tls-ca", servers.certificates.ca())
    message = invoke(*arguments, exit_code=1).stderr
    assert message.count("\n") == 1
    assert f"no TLS connection to {address} (IP address mismatch" in message


def test_a_file_of_tls_that_cannot_be_used_is_named_when_a_client_is_made(
    kind: Kind, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for ca, fact in (("ca.pem", "holds no certificate"), ("gone", r"gone \(--tls-ca\) cannot be read")):
        with pytest.raises(CredentialsError, match=fact):
            kind.open("127.0.0.1:1", credentials=Credentials(str(tmp_path / ca)))
    if kind.http:
        with pytest.raises(CredentialsError, match="write https://"):
            Client("http://127.0.0.1:1", credentials=certificates.client())


@http_kinds
def test_an_encrypted_key_is_refused_without_asking_for_its_password(
    kind: Kind, certificates: Certificates, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key(certificates.key("client-of-ours").read_bytes(), None)
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    mine = Credentials(certificates.ca(), certificates.cert("client-of-ours"), tmp_path / "client.key")
    with pytest.raises(CredentialsError, match="unencrypted key"):
        kind.open("127.0.0.1:1", credentials=mine)
