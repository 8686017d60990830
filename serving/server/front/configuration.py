"""Makes Envoy's configuration from the server's settings: the listeners, hangtag's sockets behind them, and the secrets
with the certificates.

Every field is documented in https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api. Envoy writes no access log,
because the configuration has none. At the level of warnings, Envoy's own log contains no values of headers.
"""

import base64
import json
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.front.listeners import Port, exposed_ports, seconds, typed, windows
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes

ADMIN_SOCKET = "admin.sock"
CERTIFICATE, AUTHORITY = "certificate", "authority"
"""The names of the secrets. Each secret has a file in Envoy's folder, such as certificate.json."""

_BUFFERED = 1 << 16  # the maximum number of bytes that Envoy buffers for each direction of a connection
# Envoy does not limit calls, because the models' queues already do so, and their refusals state the reason
_UNLIMITED = 1 << 30
_UPSTREAM_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
_OWN_HEAP = 128 << 20
_STATISTICS = ("downstream_rq_active", "downstream_cx_tx_bytes_buffered", "update_rejected", "update_success")
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type


def configuration(
    config: ServerConfig, host: str, metrics_port: int, servers: Sequence[Path], folder: Path
) -> dict[str, Any]:
    """Return the content of Envoy's configuration file.

    Args:
        config: The server's settings, with the port numbers.
        host: The numeric address to listen on.
        metrics_port: The port that serves only metrics, or OFF.
        servers: The folders of the servers behind Envoy, with GRPC_SOCKET and HTTP_SOCKET.
        folder: Envoy's own folder, for ADMIN_SOCKET, the secrets, and the program's METRICS_SOCKET.
    """
    ports = exposed_ports(config, metrics_port, servers, folder)
    return {
        "node": {"id": "hangtag", "cluster": "hangtag"},
        "admin": {"address": _pipe(folder / ADMIN_SOCKET), "ignore_global_conn_limit": True},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"suffix": each} for each in _STATISTICS]}}},
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": _connection_limits(ports)}]},
        "overload_manager": _overload(config, ports),
        "static_resources": {
            "listeners": [_listener(config, host, port, folder) for port in ports],
            "clusters": [_cluster(config, port, name) for port in ports for name in port.clusters],
        },
    }


def _listener(config: ServerConfig, host: str, port: Port, folder: Path) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "filters": [{"name": "http", "typed_config": _connection_manager(config, port)}],
        "transport_socket_connect_timeout": seconds(config.limits.peer_seconds),
    }
    if config.tls_cert is not None and port.name != "metrics":
        chain["transport_socket"] = {"name": "tls", "typed_config": _tls(config, folder)}
    address = {"address": host, "port_value": port.port}
    if host == "::":
        address["ipv4_compat"] = True
    return {
        "name": port.name,
        "address": {"socket_address": address},
        "per_connection_buffer_limit_bytes": _BUFFERED,
        "filter_chains": [chain],
    }


def _connection_manager(config: ServerConfig, port: Port) -> dict[str, Any]:
    limits = config.limits
    common = {"idle_timeout": seconds(config.connection_idle_seconds)}
    if config.connection_age_seconds:
        common["max_connection_duration"] = seconds(config.connection_age_seconds)
    buffer = typed("filters.http.buffer.v3.Buffer", max_request_bytes=port.message_bytes)
    router = typed("filters.http.router.v3.Router", suppress_envoy_headers=True)
    return typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=port.name,
        codec_type=port.codec,
        common_http_protocol_options=common,
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "localhost"},
        http2_protocol_options={
            "max_concurrent_streams": config.max_concurrent_streams,
            **windows(config),
            "connection_keepalive": {
                "interval": seconds(config.keepalive_seconds),
                "timeout": seconds(limits.peer_seconds),
            },
        },
        drain_timeout=seconds(limits.peer_seconds),
        max_request_headers_kb=port.head_kib,
        request_headers_timeout=seconds(limits.request_seconds),
        request_timeout=seconds(limits.message_seconds),
        stream_idle_timeout=seconds(limits.idle_call_seconds),
        stream_flush_timeout=seconds(limits.idle_call_seconds),
        # Pass only the client's own headers to hangtag, without headers that only a proxy may set.
        use_remote_address=True,
        skip_xff_append=True,
        generate_request_id=False,
        server_header_transformation="PASS_THROUGH",
        local_reply_config=port.refusals,
        route_config={"virtual_hosts": [{"name": port.name, "domains": ["*"], "routes": list(port.routes)}]},
        http_filters=[{"name": "buffer", "typed_config": buffer}, {"name": "router", "typed_config": router}],
    )


def _tls(config: ServerConfig, folder: Path) -> dict[str, Any]:
    """With mutual TLS, no session is resumed, because a client that resumes a session does not show its certificate."""

    def secret(name: str) -> dict[str, Any]:
        source = {"path_config_source": {"path": str(folder / f"{name}.json")}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    common: dict[str, Any] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [secret(CERTIFICATE)],
    }
    mutual = config.tls_client_ca is not None
    if mutual:
        common["validation_context_sds_secret_config"] = secret(AUTHORITY)
    return typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=mutual,
        disable_stateless_session_resumption=mutual,
        disable_stateful_session_resumption=mutual,
    )


def _cluster(config: ServerConfig, port: Port, name: str) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _pipe(socket)}} for socket in port.clusters[name]]
    return {
        "name": name,
        "connect_timeout": seconds(config.limits.peer_seconds),
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [dict.fromkeys(_UPSTREAM_LIMITS, _UNLIMITED)]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **port.upstream,
    }


def _connection_limits(ports: Sequence[Port]) -> dict[str, Any]:
    return {f"envoy.resource_limits.listener.{port.name}.connection_limit": port.connections for port in ports}


def _overload(config: ServerConfig, ports: Sequence[Port]) -> dict[str, Any]:
    """Above its share of memory, Envoy refuses further requests, and ends the requests that hold the most memory."""
    heap, connections = (
        "envoy.resource_monitors.fixed_heap",
        "envoy.resource_monitors.global_downstream_max_connections",
    )
    most_heap = _OWN_HEAP + 2 * config.http_bodies_bytes
    monitors = {
        heap: typed("resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=most_heap),
        connections: typed(
            "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=sum(port.connections for port in ports),
        ),
    }

    def action(name: str, **trigger: Any) -> dict[str, Any]:
        return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": heap, **trigger}]}

    def shed(point: str, above: float) -> dict[str, Any]:
        return {
            "name": f"envoy.load_shed_points.{point}",
            "triggers": [{"name": heap, "threshold": {"value": above}}],
        }

    return {
        "refresh_interval": "0.05s",
        "resource_monitors": [{"name": name, "typed_config": typed} for name, typed in monitors.items()],
        "actions": [
            action("stop_accepting_requests", threshold={"value": 0.9}),
            action("reset_high_memory_stream", scaled={"scaling_threshold": 0.9, "saturation_threshold": 1.0}),
        ],
        "loadshed_points": [
            shed("http1_server_abort_dispatch", 0.95),
            shed("http2_server_go_away_and_close_on_dispatch", 1.0),
        ],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 16},
    }


def _pipe(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path)}}


class Secrets:
    """The files of secrets: the server's certificate and key, and with mutual TLS the authority of its clients.

    hangtag replaces the files when the certificates change. Envoy can watch files itself, but notices only files that
    are renamed into place, and would take a new certificate before its key has arrived. A restarted Envoy reads the
    secrets too, so the files hold the last valid certificates. The files are stored in memory, in the folder of
    `Envoy`'s sockets, which only this user can read.
    """

    def __init__(self, config: ServerConfig, certificate: Path, key: Path, folder: Path) -> None:
        """Read the certificates, and write the files.

        Args:
            config: The server's settings.
            certificate: The file of --tls-cert.
            key: The file of --tls-key.
            folder: The folder for the files of secrets.

        Raises:
            StartError: A file cannot be read, or the certificate and the key do not belong together.
        """
        self._certificate, self._key, self._authority = certificate, key, config.tls_client_ca
        self._folder = folder
        paths = [path for path in (certificate, key, config.tls_client_ca) if path is not None]
        self._watched = WatchedFiles("TLS certificates", paths, self._read, config.limits.file_check_seconds)
        self._written: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Replace the files if the certificates have changed and are valid.

        Raises:
            StartError: The files cannot be written.
        """
        secrets = self._watched.current()
        if secrets is self._written:
            return
        try:
            for name, content in secrets.items():
                self._write(name, content)
        except OSError as error:
            raise StartError(
                f"the certificates for Envoy cannot be written to {self._folder}: {error.strerror}"
            ) from error
        self._written = secrets

    def _write(self, name: str, content: bytes) -> None:
        new = self._folder / f"{name}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        new.replace(self._folder / f"{name}.json")  # Envoy reads a file that is renamed into its place

    def _read(self) -> dict[str, bytes]:
        certificate, key = read_bytes(self._certificate, "--tls-cert"), read_bytes(self._key, "--tls-key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # without a password, OpenSSL would prompt for one
            context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
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
