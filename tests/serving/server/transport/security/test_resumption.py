"""With mutual TLS a client shows its certificate on each connection: a session that it has kept lets nobody in."""

import itertools
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.certificates import Certificates
from tests.kit.http2 import OPEN
from tests.kit.live import TIMEOUT, LiveServer

pytestmark = pytest.mark.slow

HTTP, GRPC = "http/1.1", "h2"
SENT = {HTTP: b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n", GRPC: OPEN}

SESSIONS = pytest.mark.parametrize(
    ("protocol", "version", "tickets"),
    list(itertools.product((HTTP, GRPC), (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), (True, False))),
    ids=lambda value: value.name if isinstance(value, ssl.TLSVersion) else str(value),
)
"""Where TLS 1.2 has no tickets, it has session identifiers."""


class Caller:
    """A client of one protocol that keeps its TLS session from one connection to the next."""

    def __init__(self, certificates: Certificates, protocol: str, version: ssl.TLSVersion, *, tickets: bool) -> None:
        self._protocol = protocol
        self._context = ssl.create_default_context(cafile=certificates.ca())
        self._context.load_cert_chain(certificates.cert("client-of-ours"), certificates.key("client-of-ours"))
        self._context.set_alpn_protocols([protocol])
        self._context.minimum_version = self._context.maximum_version = version
        if not tickets:
            self._context.options |= ssl.OP_NO_TICKET
        self.session: ssl.SSLSession | None = None

    def resumes(self, live: LiveServer) -> bool:
        """Connect, be answered, and keep the session. Return whether the one from before was resumed.

        Raises:
            ssl.SSLError: The server refuses the handshake.
            ConnectionError: The server closes the connection.
        """
        address = live.server.http_address if self._protocol == HTTP else live.server.address
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT) as raw,
            self._context.wrap_socket(raw, server_hostname=host, session=self.session) as connection,
        ):
            connection.sendall(SENT[self._protocol])
            if not connection.recv(1):
                raise ConnectionError("the server has closed the connection")
            self.session = connection.session  # TLS 1.3 brings it after the handshake
            return bool(connection.session_reused)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "certificates").mkdir()
    return Certificates(tmp_path / "certificates")


@contextmanager
def serving(certificates: Certificates, **options: Path) -> Iterator[LiveServer]:
    models = certificates.folder.parent / "models"
    onnx_models.publish(models, "gather", onnx_models.gather())
    files: dict[str, Any] = {**certificates.server(**options), "limits": Limits(file_check_seconds=0)}
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, transport="grpc", **files)) as live:
        yield live


@SESSIONS
def test_a_session_does_not_outlive_the_authority_of_clients(
    certificates: Certificates, protocol: str, version: ssl.TLSVersion, tickets: bool
) -> None:
    authority = certificates.folder / "authority.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    with serving(certificates, tls_client_ca=authority) as live:
        caller = Caller(certificates, protocol, version, tickets=tickets)
        assert not caller.resumes(live)
        assert not caller.resumes(live)
        authority.write_bytes(certificates.ca("strangers").read_bytes())
        with pytest.raises((ssl.SSLError, ConnectionError)):
            caller.resumes(live)
        authority.write_bytes(certificates.ca().read_bytes())
        assert not caller.resumes(live)


@SESSIONS
def test_without_client_certificates_sessions_are_resumed(
    certificates: Certificates, protocol: str, version: ssl.TLSVersion, tickets: bool
) -> None:
    with serving(certificates) as live:
        caller = Caller(certificates, protocol, version, tickets=tickets)
        assert not caller.resumes(live)
        assert caller.resumes(live)
