"""The times and sizes that limit how much of a server one client, file or worker may use."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that operators cannot set, in one place, so that tests can lower them: ``ServerConfig(limits=...)``."""

    file_check_seconds: float = 1.0
    """The least seconds between two checks of certificates and tokens, so that most calls read the clock and not the
    disk."""
    end_seconds: float = 10.0
    """How long a stopping process may take beyond --drain-seconds before it is killed."""
    worker_check_seconds: float = 1.0
    """How often the supervisor checks its workers."""
    worker_hang_seconds: float = 60.0
    """A worker that has not answered for this long is killed and replaced."""
    worker_answer_seconds: float = 5.0
    """How long the supervisor waits for the answer of a worker that may hang, before it continues without it."""
    worker_restart_seconds: float = 0.1
    """Delay before a worker is replaced; doubled for each worker in a row that ended soon after its start."""
    worker_stable_seconds: float = 60.0
    """If a worker ends within this many seconds of its start, it ended soon."""
    worker_attempts: int = 5
    """After this many replacements in a row have ended before they listened, the supervisor gives up."""

    max_shadow_copies: int = 64
    """The most copies of requests that may wait for a route's shadow."""
    max_shadow_bytes: int = 64 << 20
    """The most bytes that the inputs and the answers of these copies may take in total."""
    shadow_share_of_time: float = 0.1
    """The largest share of the time in which copies are computed."""
    shadow_late_seconds: float = 0.1
    """How often a thread hands over waiting copies of a route that has no more answers to give."""

    max_streams: int = 1000
    """gRPC: the most inference streams that are open at once. Each stream may keep requests and answers of about one
    message's size in memory, and what it is sending (docs/reference/limits.md says what else a stream may hold)."""
    max_watches: int = 1000
    """gRPC: the most open Watch streams of health. These need no token, so without a limit anybody could fill the
    memory."""
    max_reflections: int = 32
    """gRPC: the most reflection streams that are open at once. An additional stream ends the oldest, which its client
    has probably forgotten: a client that uses its stream is finished in a moment."""
    reflection_seconds: float = 60.0
    """gRPC: how long a reflection stream may be open."""

    peer_seconds: float = 20.0
    """Behind Envoy: the time that a client has for the TLS handshake, and the time that calls have to end when their
    connection is closed. Behind Envoy and over native: the time that a client has to answer a ping."""
    idle_call_seconds: float = 300.0
    """Behind Envoy: a call, unless it is a stream, ends if nothing has been sent or received for this long, because the
    client does not read the answer, or the answer takes longer to compute."""
    envoy_hang_seconds: float = 10.0
    """An Envoy that has not answered for this long is killed and restarted."""
    request_seconds: float = 20.0
    """Behind Envoy: how long a request's head may take to arrive."""
    message_seconds: float = 60.0
    """Behind Envoy: how long a request, or a call with its message, may take to arrive; 16 MiB need 2.3 Mbit/s."""

    store_silent_seconds: float = 20.0
    """An object store that sends nothing for this long counts as unavailable."""

    log_burst: int = 20
    """The most warnings and errors of one event that are logged in ten seconds."""
    trace_close_seconds: float = 2.0
    """How long a stopping server waits for the trace collector to take the last spans."""
