"""The ports on which Envoy listens. Each port has routes, refusals with hangtag's messages, and settings for the
connections to the servers behind Envoy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.host.ports import GRPC_SOCKET, GRPCIO_SOCKET, HTTP_SOCKET, METRICS_SOCKET
from hangtag.serving.server.transport.auto_transport import NATIVE, choose_transport
from hangtag.serving.server.wire.transport_call import STREAMS

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_GRPC_HEAD_KIB, _HTTP_HEAD_KIB = 16, 32
_SCRAPES = 32  # The maximum number of connections to the metrics port. Each connection occupies a server's thread.
_COMPRESSED = (
    {"name": "grpc-encoding", "present_match": True},
    {"name": "grpc-encoding", "string_match": {"exact": "identity"}, "invert_match": True},
)
_FRAME_BYTES = 5  # the length prefix of a gRPC message
_SELECTIONS = 100
"""How many times, at most, Envoy picks a worker at random for a retry. Envoy stops as soon as it picks a different
worker than before. A worker that has just ended has the fewest calls in flight, so with two workers Envoy picks the
ended worker three of four times."""
_IDLE_SECONDS = 1.0
_STREAM_WINDOW, _LARGEST_WINDOW = 1 << 20, 2**31 - 1
_UNAVAILABLE = (
    "the server cannot take this call: it is restarting, or unfinished requests take all the memory reserved for "
    "them; try again in a moment"
)


class Port(NamedTuple):
    """A port on which Envoy listens, and the servers behind it."""

    name: str
    """The name of the port's listener and statistics."""
    port: int
    head_kib: int
    message_bytes: int
    routes: Sequence[Mapping[str, Any]]
    upstream: Mapping[str, Any]
    """The settings of Envoy's connections to the servers behind the port."""
    refusals: Mapping[str, Any]
    connections: int
    """The maximum number of clients that may be connected to the port."""
    clusters: Mapping[str, Sequence[Path]]
    """Name of a cluster in the routes -> the sockets of the servers behind the port."""
    codec: str = "AUTO"  # accepts HTTP/1.1 and HTTP/2


def exposed_ports(config: ServerConfig, metrics_port: int, servers: Sequence[Path], folder: Path) -> list[Port]:
    """Return the ports for gRPC, HTTP and metrics, without ports that are off.

    Args:
        config: The server's settings.
        metrics_port: The port that serves only metrics, or OFF.
        servers: The folders of the servers, with GRPC_SOCKET and HTTP_SOCKET.
        folder: The folder of METRICS_SOCKET.
    """
    ports = [_grpc_port(config, servers)]
    if config.http_port != OFF:
        ports.append(_http_port(config, servers))
    if metrics_port != OFF:
        ports.append(_metrics_port(metrics_port, folder))
    return ports


def _grpc_port(config: ServerConfig, servers: Sequence[Path]) -> Port:
    """Streams are not buffered and may be idle; pings detect clients that have vanished.

    A compressed message may unpack to a thousand times its size. The native transport unpacks a message completely, but
    grpcio stops at the size limit for messages, so Envoy passes compressed messages to grpcio.
    """
    clusters = {"grpc": [each / GRPC_SOCKET for each in servers]}
    compressed = []
    if choose_transport(config).name == NATIVE:
        clusters["grpcio"] = [each / GRPCIO_SOCKET for each in servers]
        compressed = [_route("grpcio", headers=_COMPRESSED)]
    unbuffered = {"buffer": typed("filters.http.buffer.v3.BufferPerRoute", disabled=True)}
    streams = [
        {
            "match": {"path": path},
            "route": {**_destination("grpc"), "idle_timeout": "0s"},
            "typed_per_filter_config": unbuffered,
        }
        for path in STREAMS
    ]
    # If a caller cancels many calls at once, the server closes the connection, so each connection carries only one
    # caller's calls. Envoy keeps the connection of a caller that has left until the connection has been idle for this
    # long.
    idle = {"idle_timeout": seconds(min(_IDLE_SECONDS, config.connection_idle_seconds / 2))}
    upstream = {
        "typed_extension_protocol_options": _upstream(idle, http2_protocol_options=windows(config)),
        "connection_pool_per_downstream_connection": True,
    }
    size = f"SERVER: Received message larger than max ({config.max_message_mib << 20} bytes, --max-message-mib)"
    late = "the call's message did not arrive in time; send the message together with the call's headers"
    mappers = [_refusal(413, size, grpc_status=8), _refusal(408, late, grpc_status=4)]
    routes = [*streams, *compressed, _route("grpc")]
    limit = (config.max_message_mib << 20) + _FRAME_BYTES
    refusals, connections = {"mappers": mappers + _unavailable()}, config.max_connections
    return Port("grpc", config.port, _GRPC_HEAD_KIB, limit, routes, upstream, refusals, connections, clusters)


def _http_port(config: ServerConfig, servers: Sequence[Path]) -> Port:
    # This time is shorter than the server's own limit, so that Envoy sends no request on a connection that the server
    # closes.
    idle = {"idle_timeout": seconds(config.connection_idle_seconds / 2)}
    upstream = {"typed_extension_protocol_options": _upstream(idle, http_protocol_options={})}
    size = f"the request's body has more than {config.max_message_mib} MiB (--max-message-mib)"
    late = "the request arrives too slowly"
    refusals = {
        "mappers": [_refusal(413, size), _refusal(408, late), *_unavailable()],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }
    other_port = f"this port is for HTTP; gRPC is on port {config.port}"
    routes = [
        {
            "match": {"prefix": "/", "grpc": {}},
            "direct_response": {"status": 404, "body": {"inline_string": other_port}},
        },
        _route("http"),
    ]
    limit, connections = config.max_message_mib << 20, config.max_connections
    clusters = {"http": [each / HTTP_SOCKET for each in servers]}
    return Port("http", config.http_port, _HTTP_HEAD_KIB, limit, routes, upstream, refusals, connections, clusters)


def _metrics_port(port: int, folder: Path) -> Port:
    """The port has no TLS, as Prometheus and probes expect. A connection carries one request at a time."""
    upstream = {"typed_extension_protocol_options": _upstream(http_protocol_options={})}
    clusters = {"metrics": [folder / METRICS_SOCKET]}
    return Port("metrics", port, _HTTP_HEAD_KIB, 1, [_route("metrics")], upstream, {}, _SCRAPES, clusters, "HTTP1")


def windows(config: ServerConfig) -> dict[str, int]:
    """Return how many bytes of a stream, and of a connection, may arrive before they are read. A connection may receive
    enough bytes that an unread stream does not block other streams."""
    of_all = min(_LARGEST_WINDOW, _STREAM_WINDOW * (config.max_concurrent_streams + 1))
    return {"initial_stream_window_size": _STREAM_WINDOW, "initial_connection_window_size": of_all}


def _route(cluster: str, headers: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"match": {"prefix": "/", "headers": list(headers)}, "route": _destination(cluster)}


def _destination(cluster: str) -> dict[str, Any]:
    """If a worker has just ended and Envoy cannot send a call to it, send the call to another worker."""
    others = {"name": "others", "typed_config": typed("retry.host.previous_hosts.v3.PreviousHostsPredicate")}
    retry = {
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 2,
        "retry_host_predicate": [others],
        "host_selection_retry_max_attempts": _SELECTIONS,
    }
    return {"cluster": cluster, "timeout": "0s", "retry_policy": retry}


def _refusal(status: int, message: str, grpc_status: int | None = None) -> dict[str, Any]:
    """Set the message of Envoy's own answers with this HTTP status. Over gRPC, ``grpc_status`` replaces UNKNOWN."""
    compared = {"value": {"default_value": status, "runtime_key": "unused"}}
    refusal: dict[str, Any] = {
        "status_code": 503 if status == 500 else status,
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", **compared}}},
        "body": {"inline_string": message},
    }
    if grpc_status is not None:
        header = {"key": "grpc-status", "value": str(grpc_status)}
        refusal["headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return refusal


def _unavailable() -> list[dict[str, Any]]:
    """Replace the texts of Envoy's own answers 503 and 500. Over HTTP/1.1, Envoy answers 500 if Envoy is short of
    memory."""
    return [_refusal(status, _UNAVAILABLE) for status in (503, 500)]


def _upstream(common: Mapping[str, Any] | None = None, **explicit: Any) -> dict[str, Any]:
    return {
        _HTTP: {
            "@type": f"type.googleapis.com/{_HTTP}",
            "explicit_http_config": explicit,
            "common_http_protocol_options": common or {},
        }
    }


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """Return a configuration message of Envoy with the type of its extension."""
    return {"@type": f"{_EXTENSIONS}{name}", **fields}


def seconds(seconds: float) -> str:
    """Return a duration in the format of Envoy's configuration."""
    return f"{seconds:.3f}s"
