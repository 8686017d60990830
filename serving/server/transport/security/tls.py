"""TLS: the server's certificate and key, and the authority of client certificates (mutual TLS).

The files are read again when they change; the new ones serve new connections, and open connections go on.

A client that resumes a TLS session shows no certificate again, so it would still be let in after its authority was
replaced. With mutual TLS no session is resumed: the keys of session tickets and the session cache belong to the TLS
library's context, and each connection gets a context of its own.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes


@dataclass(frozen=True)
class _Files:
    certificate: Path
    key: Path
    client_ca: Path | None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]

    def context(self) -> ssl.SSLContext:
        """Check and read the files for HTTP.

        Raises:
            StartError: A file cannot be read, or certificate and key do not belong together.
        """
        read_bytes(self.certificate, "--tls-cert"), read_bytes(self.key, "--tls-key")
        context = _empty_context(mutual=self.client_ca is not None)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")  # or OpenSSL would prompt for it
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise StartError(
                f"{self.certificate} (--tls-cert) and {self.key} (--tls-key) are not a certificate and its key, both "
                f"PEM and the key not encrypted: {error}"
            ) from error
        if self.client_ca is not None:
            authorities = read_bytes(self.client_ca, "--tls-client-ca")
            try:
                context.load_verify_locations(cadata=authorities.decode())
            except (OSError, ValueError) as error:
                raise StartError(
                    f"{self.client_ca} (--tls-client-ca) holds no certificate in PEM form: {error}"
                ) from error
        return context

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Check and read the files for gRPC. Raises StartError as `context` does.

        Without the check gRPC would start with unusable files too, and then refuse every connection.
        """
        self.context()
        return grpc.ssl_server_certificate_configuration(
            [(read_bytes(self.key, "--tls-key"), read_bytes(self.certificate, "--tls-cert"))],
            None if self.client_ca is None else read_bytes(self.client_ca, "--tls-client-ca"),
        )


def ssl_contexts(config: ServerConfig) -> Callable[[], ssl.SSLContext] | None:
    """What returns the context of the next HTTP connection, with the files as they are then; None without --tls-cert.

    Raises:
        StartError: A file cannot be read, or certificate and key do not belong together.
    """
    files = _files(config)
    if files is None:
        return None
    watched = WatchedFiles("TLS certificates of HTTP", files.paths, files.context, config.limits.file_check_seconds)
    if files.client_ca is None:
        return watched.current

    def take_certificates(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """OpenSSL calls this at the beginning of each handshake."""
        connection.context = watched.current()

    def unshared() -> ssl.SSLContext:
        """Return a context that keeps no session beyond its connection. It costs little, for it takes the certificates
        of a context that all connections share."""
        context = _empty_context(mutual=True)
        context.sni_callback = take_certificates
        return context

    return unshared


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """The credentials for gRPC's secure port; None without --tls-cert.

    With --tls-client-ca each client must present a certificate that this authority has signed.

    Raises:
        StartError: A file cannot be read, or certificate and key do not belong together.
    """
    files = _files(config)
    if files is None:
        return None
    watched = WatchedFiles("TLS certificates", files.paths, files.read, config.limits.file_check_seconds)
    served = watched.current()

    def fetch_renewed() -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls this for each new connection, and makes a new context of what it gets; None leaves the last."""
        nonlocal served
        current = watched.current()
        if current is served and files.client_ca is None:
            return None
        served = current
        return current

    return grpc.dynamic_ssl_server_credentials(
        served,
        fetch_renewed,  # type: ignore[arg-type]  # grpcio's stubs do not allow None
        require_client_authentication=files.client_ca is not None,
    )


def _files(config: ServerConfig) -> _Files | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return _Files(config.tls_cert, config.tls_key, config.tls_client_ca)


def _empty_context(*, mutual: bool) -> ssl.SSLContext:
    """A context for HTTP without certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET  # TLS 1.2
        context.num_tickets = 0  # TLS 1.3
    return context
