"""Limits on what one client may use of the server, enforced by gRPC's core.

The names of the arguments are documented in gRPC's grpc/impl/channel_arg_names.h.
"""

from hangtag.serving.server.config.server_config import ServerConfig

_MAX_PENDING = 100_000
_NEVER_MS = 2**31 - 1


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The arguments for grpcio's server."""
    peer_ms = round(config.limits.peer_seconds * 1000)
    message_bytes = config.max_message_mib * 1024 * 1024
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # Workers share the port. With a single process it must not be shared: a second server would silently get a
        # part of the calls.
        ("grpc.so_reuseport", int(config.workers > 1)),
        # Above this gRPC's core answers CANCELLED without a message, before the server sees the call. The limit is so
        # high that maximum_concurrent_rpcs, which answers RESOURCE_EXHAUSTED, comes first.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        # This also bounds the calls that wait in gRPC's core until a handler thread is free.
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # By default gRPC's core also refuses HTTP/2 streams (UNAVAILABLE at the client) while ended ones are not yet
        # cleaned up, so a client within the limit above would lose calls. That limit and the models' queues suffice.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", peer_ms),  # 120 s by default
        # Pings detect a client that vanished, so that its connection and its calls are freed; an idle one is closed.
        ("grpc.keepalive_time_ms", round(config.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", peer_ms),
        ("grpc.http2.ping_timeout_ms", peer_ms),  # the longer timeout counts, and this defaults to 60 s
        ("grpc.max_connection_idle_ms", round(config.connection_idle_seconds * 1000)),
        # An old connection gets GOAWAY: its client connects again for new calls, and the calls in flight finish.
        ("grpc.max_connection_age_ms", round(config.connection_age_seconds * 1000) or _NEVER_MS),
        ("grpc.max_connection_age_grace_ms", peer_ms),
        # A client that pings more often is disconnected at the third such ping, with "too many pings".
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.min_ping_seconds * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
    ]
