"""Makes Envoy's configuration from envoy.yaml and the server's settings, and writes Envoy's secrets to files."""

import base64
import json
import re
import ssl
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from string import Template
from tempfile import NamedTemporaryFile
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.ports import GRPC_SOCKET, GRPCIO_SOCKET, HTTP_SOCKET, METRICS_SOCKET
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes
from hangtag.serving.server.transport import NATIVE, choose_transport
from hangtag.serving.server.wire.transport_call import STREAMS

ADMIN_SOCKET = "admin.sock"
CERTIFICATE, AUTHORITY = "certificate", "authority"
"""The names of the secrets. Each secret has a file in Envoy's folder, such as certificate.json."""

_BLOCK = re.compile(r"^ *# only with (\w+)\n(.*?)^ *# end of \1\n", re.MULTILINE | re.DOTALL)
_REPEATED = re.compile(r"^ *# (?:for|end of) each .*\n", re.MULTILINE)
_SOCKETS = {"grpc": GRPC_SOCKET, "grpcio": GRPCIO_SOCKET, "http": HTTP_SOCKET}
"""The sockets of a server's clusters, by the cluster's name."""
_OWN_HEAP = 128 << 20
_SCRAPES = 32  # The maximum number of connections to the metrics port. Each connection occupies a server's thread.
_FRAME_BYTES = 5  # the length prefix of a gRPC message
_IDLE_SECONDS = 1.0
_STREAM_WINDOW, _LARGEST_WINDOW = 1 << 20, 2**31 - 1
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type


def configuration(config: ServerConfig, host: str, metrics_port: int, servers: Sequence[Path], folder: Path) -> str:
    """Return the content of Envoy's configuration file. ``servers`` are the folders of the servers behind Envoy, with
    GRPC_SOCKET and HTTP_SOCKET. ``folder`` is Envoy's folder, with ADMIN_SOCKET, the secrets, and METRICS_SOCKET, on
    which hangtag serves the metrics."""
    numbers = {"grpc": config.port, "http": config.http_port, "metrics": metrics_port}
    ports = {name: number for name, number in numbers.items() if number != OFF}
    message_bytes = config.max_message_mib << 20
    max_connections = {port: _SCRAPES if port == "metrics" else config.max_connections for port in ports}
    # envoy.yaml may use the names of all settings and of all limits, and the names below.
    values = {
        **vars(config.limits),
        **vars(config),
        "admin_socket": str(folder / ADMIN_SOCKET),
        "all_connections": sum(max_connections.values()),
        "authority_file": str(folder / f"{AUTHORITY}.json"),
        "certificate_file": str(folder / f"{CERTIFICATE}.json"),
        "connection_limits": {
            f"envoy.resource_limits.listener.{port}.connection_limit": limit for port, limit in max_connections.items()
        },
        # A connection's flow-control window has room for all its streams, so no unread stream blocks the others.
        "connection_window": min(_LARGEST_WINDOW, _STREAM_WINDOW * (config.max_concurrent_streams + 1)),
        "grpc_port": config.port,
        "host": host,
        "ipv4_compat": host == "::",
        "max_heap_bytes": _OWN_HEAP + 2 * config.http_bodies_bytes,
        "max_message_bytes": message_bytes,
        "mutual": config.tls_client_ca is not None,
        "stream_window": _STREAM_WINDOW,
        "streams": "|".join(map(re.escape, STREAMS)),
    }
    settings = {
        *(["native"] if choose_transport(config)[0] == NATIVE else []),
        *(["tls"] if config.tls_cert is not None else []),
        *(["mutual"] if config.tls_client_ca is not None else []),
        *(["age"] if config.connection_age_seconds else []),
    }
    before, of_port, between, of_cluster, _ = _REPEATED.split(Path(__file__).with_name("envoy.yaml").read_text())
    parts = [_filled(before, settings, values)]
    request_bytes = {"grpc": message_bytes + _FRAME_BYTES, "http": message_bytes, "metrics": 1}
    for name, number in ports.items():
        # Prometheus and probes expect no TLS
        present = settings - {"tls"} | {name} if name == "metrics" else settings | {name, "refusals"}
        of_name = {"port": name, "port_value": number, "head_kib": 16 if name == "grpc" else 32}
        parts.append(_filled(of_port, present, {**values, **of_name, "max_request_bytes": request_bytes[name]}))
    sockets = {name: [server / socket for server in servers] for name, socket in _SOCKETS.items()}
    sockets |= {"metrics": [folder / METRICS_SOCKET]}
    # Envoy closes an idle connection before the server does, so that Envoy sends no request on a connection that the
    # server closes.
    idle = config.connection_idle_seconds / 2
    idle_seconds = {"grpc": min(_IDLE_SECONDS, idle), "grpcio": min(_IDLE_SECONDS, idle), "http": idle}
    parts.append(between)
    for name in (*ports, *(["grpcio"] if "native" in settings else [])):
        connections = {"idle_timeout": _duration(idle_seconds[name])} if name in idle_seconds else {}
        endpoints = [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}} for socket in sockets[name]]
        of_cluster_name = {"cluster": name, "sockets": endpoints, "connections": connections}
        present = {"http2" if name in ("grpc", "grpcio") else "http1"}
        parts.append(_filled(of_cluster, present, {**values, **of_cluster_name}))
    return "".join(parts)


def _filled(text: str, present: Set[str], values: Mapping[str, Any]) -> str:
    """Replace the names after dollar signs by values, and drop the blocks whose names are not present."""
    template = Template(_present_blocks(text, present))
    written = {}
    for name in template.get_identifiers():
        value = _duration(values[name]) if name.endswith("_seconds") else values[name]
        written[name] = json.dumps(value)  # YAML includes JSON
    return template.substitute(written)


def _present_blocks(text: str, present: Set[str]) -> str:
    return _BLOCK.sub(lambda block: _present_blocks(block[2], present) if block[1] in present else "", text)


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"


class Secrets:
    """Files with the server's certificate and key and, for mutual TLS, the authority of the clients' certificates.

    hangtag replaces the files when the certificates change. Envoy can watch files itself, but notices only files that
    are renamed into place, and would take a new certificate before its key has arrived. A restarted Envoy reads the
    secrets too, so the files hold the last valid certificates. The folder that holds these files and `Envoy`'s sockets
    is readable only by this user, and is in memory if possible.
    """

    def __init__(self, config: ServerConfig, certificate: Path, key: Path, folder: Path) -> None:
        """Read the certificates, and write the files to ``folder``. Raises StartError if a file cannot be read, or the
        certificate and the key do not belong together."""
        self._certificate, self._key, self._authority = certificate, key, config.tls_client_ca
        self._folder = folder
        paths = [path for path in (certificate, key, config.tls_client_ca) if path is not None]
        self._watched = WatchedFiles("TLS certificates", paths, self._read, config.limits.file_check_seconds)
        self._written: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Replace the files if the certificates have changed and are valid. Raises OSError if writing fails."""
        secrets = self._watched.current()
        if secrets is self._written:
            return
        for name, content in secrets.items():
            new = self._folder / f"{name}.new"
            new.write_bytes(content)
            new.replace(self._folder / f"{name}.json")  # Envoy reloads a file that a rename replaces
        self._written = secrets

    def _read(self) -> dict[str, bytes]:
        certificate, key = read_bytes(self._certificate, "--tls-cert"), read_bytes(self._key, "--tls-key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Copies, because OpenSSL would open the files again, and wait for ever if a file has become a named pipe.
            with NamedTemporaryFile(dir=self._folder) as chain, NamedTemporaryFile(dir=self._folder) as private:
                for copy, content in ((chain, certificate), (private, key)):
                    copy.write(content)
                    copy.flush()
                # without a password, OpenSSL would prompt for one
                context.load_cert_chain(chain.name, private.name, password=lambda: b"")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise StartError(
                f"{self._certificate} (--tls-cert) and {self._key} (--tls-key) are not a PEM certificate and its "
                f"unencrypted PEM key: {error}"
            ) from error
        served = {"certificate_chain": _inline(certificate), "private_key": _inline(key)}
        secrets = {CERTIFICATE: _secret(CERTIFICATE, tls_certificate=served)}
        if self._authority is not None:
            authorities = read_bytes(self._authority, "--tls-client-ca")
            try:
                context.load_verify_locations(cadata=authorities.decode())
            except (OSError, ValueError) as error:
                raise StartError(
                    f"{self._authority} (--tls-client-ca) holds no certificate in PEM form: {error}"
                ) from error
            trusted = {"trusted_ca": _inline(authorities)}
            secrets[AUTHORITY] = _secret(AUTHORITY, validation_context=trusted)
        return secrets


def _secret(name: str, **content: Any) -> bytes:
    return json.dumps({"resources": [{"@type": _SECRET, "name": name, **content}]}).encode()


def _inline(content: bytes) -> dict[str, str]:
    return {"inline_bytes": base64.b64encode(content).decode()}
