"""What one caller may take of the server, as gRPC's core enforces it. Names: grpc/impl/channel_arg_names.h."""

from hangtag.serving.server.config.server_config import ServerConfig

_MAX_PENDING = 100_000
_NEVER_MS = 2**31 - 1
_PEER_SECONDS = 20
"""How long a peer may take to answer a ping, and calls of a connection that is being closed to end."""


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The arguments for grpcio's server."""
    message_bytes = config.max_message_mib * 1024 * 1024
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # Workers share the port. Without them, a second server on it would silently get a part of the calls.
        ("grpc.so_reuseport", int(config.workers > 1)),
        # Beyond these gRPC's core answers a bare CANCELLED before anybody here sees the call; what is over
        # maximum_concurrent_rpcs gets RESOURCE_EXHAUSTED instead.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        # Also what bounds the calls that wait in gRPC's core until grpcio, on the ordinary path, gets to them.
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # By default gRPC's core also refuses streams by itself (REFUSED_STREAM, UNAVAILABLE at the caller) while those
        # that ended are not cleared away yet, so that a caller who keeps to the limit above loses calls. That limit and
        # the queues behind it bound what a connection may take.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        # A peer that vanished without a word frees its connection and its calls; so does one that only sits there.
        ("grpc.keepalive_time_ms", round(config.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", _PEER_SECONDS * 1000),
        ("grpc.http2.ping_timeout_ms", _PEER_SECONDS * 1000),  # the later of the two counts, and this one's is a minute
        ("grpc.max_connection_idle_ms", round(config.connection_idle_seconds * 1000)),
        # It is asked to go, and its calls end first, so that none is lost.
        ("grpc.max_connection_age_ms", round(config.connection_age_seconds * 1000) or _NEVER_MS),
        ("grpc.max_connection_age_grace_ms", _PEER_SECONDS * 1000),
        # A client that pings more often, three times, is sent away with "too many pings".
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.min_ping_seconds * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
    ]
