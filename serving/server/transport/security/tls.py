"""The server's certificate, and those it asks of callers: read again, once the files change, for new connections."""

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

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Raises StartError when they are no good: gRPC would start all the same, and refuse every connection."""
        _check(self)
        return grpc.ssl_server_certificate_configuration(
            [(read_bytes(self.key, "--tls-key"), read_bytes(self.certificate, "--tls-cert"))],
            None if self.client_ca is None else read_bytes(self.client_ca, "--tls-client-ca"),
        )


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """None without --tls-cert. With --tls-client-ca every caller must show a certificate that it signed (mTLS).

    Raises StartError when the files cannot be read or do not belong together.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    files = _Files(config.tls_cert, config.tls_key, config.tls_client_ca)
    paths = [path for path in (files.certificate, files.key, files.client_ca) if path is not None]
    watched = WatchedFiles("TLS certificates", paths, files.read)
    told = watched.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        current = watched.current()
        if current is told:
            return None  # gRPC's word for: no change
        told = current
        return current

    return grpc.dynamic_ssl_server_credentials(
        told,
        renewed,  # type: ignore[arg-type]  # the stubs leave out that None is an answer
        require_client_authentication=config.tls_client_ca is not None,
    )


def _check(files: _Files) -> None:
    read_bytes(files.certificate, "--tls-cert"), read_bytes(files.key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")  # never ask a terminal
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise StartError(
            f"{files.certificate} (--tls-cert) and {files.key} (--tls-key) are not a certificate and its key, both PEM "
            f"and the key not encrypted: {error}"
        ) from error
    if files.client_ca is None:
        return
    authorities = read_bytes(files.client_ca, "--tls-client-ca")
    try:
        context.load_verify_locations(cadata=authorities.decode())
    except (OSError, ValueError) as error:
        raise StartError(f"{files.client_ca} (--tls-client-ca) holds no certificate in PEM form: {error}") from error
