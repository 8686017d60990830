"""TLS: the server's certificate and key, and the authority of client certificates (mutual TLS).

The files are read again when they change; the new ones serve new connections, and open connections go on.
"""

import ssl
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
        """Check and read the files for HTTP. Raises StartError as `read` does."""
        context = _context(self)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        return context

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Check and read the files.

        Without the check gRPC would start with unusable files too, and then refuse every connection.

        Raises:
            StartError: A file cannot be read, or certificate and key do not belong together.
        """
        _context(self)
        return grpc.ssl_server_certificate_configuration(
            [(read_bytes(self.key, "--tls-key"), read_bytes(self.certificate, "--tls-cert"))],
            None if self.client_ca is None else read_bytes(self.client_ca, "--tls-client-ca"),
        )


def ssl_context(config: ServerConfig) -> ssl.SSLContext | None:
    """The context for HTTP connections; None without --tls-cert. New connections get a new one when a file changes.

    Raises:
        StartError: A file cannot be read, or certificate and key do not belong together.
    """
    files = _files(config)
    if files is None:
        return None
    watched = WatchedFiles("TLS certificates of HTTP", files.paths, files.context)

    def choose_renewed(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """OpenSSL calls this at the beginning of each handshake."""
        connection.context = watched.current()

    context = watched.current()
    context.sni_callback = choose_renewed
    return context


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """The credentials for gRPC's secure port; None without --tls-cert.

    With --tls-client-ca each client must present a certificate that this authority has signed.

    Raises:
        StartError: A file cannot be read, or certificate and key do not belong together.
    """
    files = _files(config)
    if files is None:
        return None
    watched = WatchedFiles("TLS certificates", files.paths, files.read)
    served = watched.current()

    def fetch_renewed() -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls this for each new connection; None means that nothing has changed."""
        nonlocal served
        current = watched.current()
        if current is served:
            return None
        served = current
        return current

    return grpc.dynamic_ssl_server_credentials(
        served,
        fetch_renewed,  # type: ignore[arg-type]  # grpcio's stubs do not allow None
        require_client_authentication=config.tls_client_ca is not None,
    )


def _files(config: ServerConfig) -> _Files | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return _Files(config.tls_cert, config.tls_key, config.tls_client_ca)


def _context(files: _Files) -> ssl.SSLContext:
    """Raises StartError for files that cannot be used."""
    read_bytes(files.certificate, "--tls-cert"), read_bytes(files.key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")  # or OpenSSL would prompt for it
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise StartError(
            f"{files.certificate} (--tls-cert) and {files.key} (--tls-key) are not a certificate and its key, both PEM "
            f"and the key not encrypted: {error}"
        ) from error
    if files.client_ca is None:
        return context
    authorities = read_bytes(files.client_ca, "--tls-client-ca")
    try:
        context.load_verify_locations(cadata=authorities.decode())
    except (OSError, ValueError) as error:
        raise StartError(f"{files.client_ca} (--tls-client-ca) holds no certificate in PEM form: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
