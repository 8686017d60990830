"""TLS, mutual TLS, tokens and resumed TLS sessions. Clients' own errors are tested in tests/serving/connection."""

import itertools
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing
from grpc_health.v1 import health_pb2_grpc

from hangtag.serving.client import ClientError, Credentials
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.http2 import OPEN
from tests.kit.kinds import KINDS, Kind
from tests.kit.live import failure, index, request, status_of
from tests.kit.rest import Rest
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT, until

PROTOCOLS = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.asynchronous], ids=str)
UNAVAILABLE, UNAUTHENTICATED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
OLD, NEW = "0123456789abcdef", "fedcba9876543210fedcba"


@contextmanager
def serving(models: Path, **settings: Any) -> Iterator[Server]:
    """A server that checks its token file at each call, and its certificate files continuously."""
    with server(models, limits=Limits(file_check_seconds=0), drain_seconds=1, **settings) as running:
        yield running


def value(running: Server, kind: Kind, credentials: Credentials) -> float:
    with kind.open(kind.of(running), timeout=TIMEOUT, credentials=credentials) as client:
        return float(client.infer("gather", {"index": index(2)})["value"].item())


def serves(running: Server, kind: Kind, credentials: Credentials) -> bool:
    """Return True if the server and a client accept each other's certificates."""
    with suppress(ClientError):
        return value(running, kind, credentials) == 20
    return False


def events(log: list[Any]) -> set[str]:
    return {line["event"] for line in log}


def refused(running: Server, kind: Kind, credentials: Credentials) -> grpc.StatusCode:
    with (
        kind.open(kind.of(running), timeout=TIMEOUT, credentials=credentials) as client,
        pytest.raises(ClientError) as error,
    ):
        client.infer("gather", {"index": index(2)})
    return error.value.code


@PROTOCOLS
def test_mutual_tls_requires_a_certificate_of_the_authority_as_it_is_now(
    models: Path, certificates: Certificates, kind: Kind
) -> None:
    authority = certificates.folder / "authority-ca.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    with serving(models, **certificates.server(tls_client_ca=authority)) as running:
        assert value(running, kind, certificates.client()) == 20
        for by in (None, "strangers"):
            assert refused(running, kind, certificates.client(by)) is UNAVAILABLE
        authority.write_bytes(certificates.ca("strangers").read_bytes())
        until(lambda: serves(running, kind, certificates.client("strangers")))
        assert not serves(running, kind, certificates.client())
        with structlog.testing.capture_logs() as log:
            authority.write_bytes(b"no certificate")
            until(lambda: "TLS certificates not reloaded; the previous contents stay in use" in events(log))
        assert serves(running, kind, certificates.client("strangers"))


@PROTOCOLS
def test_a_renewed_certificate_is_for_new_connections_and_a_broken_one_for_none(
    models: Path, certificates: Certificates, kind: Kind
) -> None:
    ours, strangers = (Credentials(certificates.ca(name)) for name in ("ours", "strangers"))
    with (
        serving(models, **certificates.server()) as running,
        kind.open(kind.of(running), credentials=ours) as old,
    ):
        assert old.models() == ["gather"]
        with structlog.testing.capture_logs() as log:
            certificates.key("server-of-ours").write_bytes(certificates.key("server-of-strangers").read_bytes())
            until(lambda: "TLS certificates not reloaded; the previous contents stay in use" in events(log))
        assert serves(running, kind, ours)  # the new key does not match the certificate, so the old pair stays in use
        certificates.cert("server-of-ours").write_bytes(certificates.cert("server-of-strangers").read_bytes())
        until(lambda: serves(running, kind, strangers))
        assert not serves(running, kind, ours)
        assert old.models() == ["gather"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("server-of-ours.key", r"are not a PEM certificate and its unencrypted PEM key"),
        ("server-of-ours.pem", r"are not a PEM certificate and its unencrypted PEM key"),
        ("ours-ca.pem", r"ours-ca\.pem \(--tls-client-ca\) holds no certificate in PEM form"),
    ],
)
def test_the_server_does_not_start_with_unusable_files(
    models: Path, certificates: Certificates, spoil: str, message: str
) -> None:
    files = certificates.server(tls_client_ca=certificates.ca())
    (certificates.folder / spoil).write_text("no PEM")
    with pytest.raises(StartError, match=message), serving(models, **files):
        pass


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens").write_text(TOKEN)
    return tmp_path / "tokens"


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_every_call_but_those_to_health_requires_a_token(models: Path, tokens: Path, transport: str) -> None:
    with (
        serving(models, token_file=tokens, transport=transport) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        for method, message in (
            ("/inference.GRPCInferenceService/ServerLive", b""),
            ("/inference.GRPCInferenceService/ModelInfer", request("gather", index=index(1)).SerializeToString()),
            ("/hangtag.v1.Classifier/Classify", b""),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b""),
            ("/no.such/Method", b""),
            # The server asks for the token before it reads the message.
            ("/inference.GRPCInferenceService/ModelInfer", b"\xff"),
            ("/hangtag.v1.Classifier/Classify", b"\xff"),
        ):
            call: Any = channel.unary_stream(method)
            code, text = failure(lambda call=call, message=message: list(call(message, timeout=TIMEOUT)))  # type: ignore[misc]
            assert code is UNAUTHENTICATED
            assert text.startswith("this server requires a token: send 'authorization: Bearer <token>'")
        assert status_of(health_pb2_grpc.HealthStub(channel), "gather") == "SERVING"


def test_every_request_over_http_but_those_to_health_requires_a_token(models: Path, tokens: Path) -> None:
    with serving(models, token_file=tokens) as running, Rest(running.http_address) as rest:
        assert rest.get("/v2/health/live").json == {"live": True}
        assert rest.get("/v2/health/ready").json == {"ready": True}
        for method, path in (
            ("POST", "/v2/models/gather/infer"),
            ("POST", "/v1/classify/gather"),
            ("GET", "/v2"),
            ("GET", "/v2/models/gather"),
            ("GET", "/metrics"),
            ("POST", "/v2/repository/index"),
            ("GET", "/no/such/path"),
        ):
            answer = rest.ask(method, path, b"", {})
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "'authorization: Bearer <token>'" in answer.error


@PROTOCOLS
@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_the_tokens_are_those_of_the_file_as_it_is_now(
    models: Path, tokens: Path, tmp_path: Path, kind: Kind, transport: str
) -> None:
    own = tmp_path / "own-token"

    def admitted(token: str) -> bool:
        own.write_text(token)
        with (
            kind.open(kind.of(running), timeout=TIMEOUT, credentials=Credentials(token_file=own)) as client,
            suppress(ClientError),
        ):
            return client.models() == ["gather"]
        assert refused(running, kind, Credentials(token_file=own)) is UNAUTHENTICATED
        return False

    tokens.write_text(f"# of the shop\n{OLD}\n\n  {NEW} \n")
    with serving(models, token_file=tokens, transport=transport) as running:
        assert [admitted(token) for token in (OLD, NEW, f"{OLD}0", OLD[:-1] + "x")] == [True, True, False, False]
        tokens.write_text(NEW)
        assert (admitted(OLD), admitted(NEW)) == (False, True)
        tokens.unlink()
        assert admitted(NEW)
        tokens.write_text("short")
        assert admitted(NEW)
        tokens.write_text("# nobody\n")
        assert not admitted(NEW)


@pytest.mark.parametrize("content", ["abcdefghijk", f"{OLD}\ntwo words in a line of it", "ünïcödé-is-no-ascii"])
def test_a_malformed_token_is_an_error_that_does_not_show_it(models: Path, tokens: Path, content: str) -> None:
    tokens.write_text(content)
    message = r"tokens \(--token-file\): token [12] is too short, or is not a single ASCII word"
    with pytest.raises(StartError, match=message) as error, serving(models, token_file=tokens):
        pass
    assert content.split()[-1] not in str(error.value)


HTTP, GRPC = "http/1.1", "h2"
SENT = {HTTP: b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n", GRPC: OPEN}

SESSIONS = list(itertools.product((HTTP, GRPC), (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), (True, False)))
"""The protocol, the TLS version, and whether tickets are used. Without tickets, TLS 1.2 uses session identifiers."""


class Caller:
    """A client for one protocol, which keeps its TLS session for its next connection."""

    def __init__(self, certificates: Certificates, protocol: str, version: ssl.TLSVersion, *, tickets: bool) -> None:
        self._protocol = protocol
        self._context = ssl.create_default_context(cafile=certificates.ca())
        self._context.load_cert_chain(certificates.cert("client-of-ours"), certificates.key("client-of-ours"))
        self._context.set_alpn_protocols([protocol])
        self._context.minimum_version = self._context.maximum_version = version
        if not tickets:
            self._context.options |= ssl.OP_NO_TICKET
        self.session: ssl.SSLSession | None = None

    def resumes(self, running: Server) -> bool:
        """Connect, get an answer, and keep the session. Return True if the previous session was resumed.

        Raises:
            ssl.SSLError: The server refuses the handshake.
            ConnectionError: The server closes the connection.
        """
        address = running.http_address if self._protocol == HTTP else running.address
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT) as raw,
            self._context.wrap_socket(raw, server_hostname=host, session=self.session) as connection,
        ):
            connection.sendall(SENT[self._protocol])
            if not connection.recv(1):
                raise ConnectionError("the server has closed the connection")
            self.session = connection.session  # in TLS 1.3, the session arrives only after the handshake
            return bool(connection.session_reused)


def is_let_in(caller: Caller, running: Server) -> bool:
    """Return True if the server accepts the client's certificate and resumes no session."""
    try:
        return not caller.resumes(running)
    except (ssl.SSLError, ConnectionError):
        return False


def test_with_mutual_tls_a_session_does_not_outlive_the_authority_of_clients(
    models: Path, certificates: Certificates
) -> None:
    """With mutual TLS, no session is resumed, so a client must show its certificate on each connection."""
    authority = certificates.folder / "authority.pem"
    ours, strangers = (certificates.ca(name).read_bytes() for name in ("ours", "strangers"))
    authority.write_bytes(ours)
    with serving(models, **certificates.server(tls_client_ca=authority)) as running:
        for protocol, version, tickets in SESSIONS:
            caller = Caller(certificates, protocol, version, tickets=tickets)
            assert not caller.resumes(running)
            assert not caller.resumes(running)
            authority.write_bytes(strangers)
            until(lambda caller=caller: not is_let_in(caller, running))  # type: ignore[misc]
            authority.write_bytes(ours)
            until(lambda caller=caller: is_let_in(caller, running))  # type: ignore[misc]


def test_without_client_certificates_sessions_are_resumed(models: Path, certificates: Certificates) -> None:
    with serving(models, **certificates.server()) as running:
        for protocol, version, tickets in SESSIONS:
            caller = Caller(certificates, protocol, version, tickets=tickets)
            assert not caller.resumes(running)
            assert caller.resumes(running), (protocol, version, tickets)
