"""The times and sizes that bound what one client, file or worker may take of a server."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that no operator sets, in one place, so that a test can shorten them: ``ServerConfig(limits=...)``."""

    file_check_seconds: float = 1.0
    """Least seconds between two checks of certificates and tokens, so that a call costs a read of the clock, not of
    the disk."""
    linger_seconds: float = 1.0
    """How long a model takes requests after it was replaced or unloaded."""

    worker_check_seconds: float = 1.0
    """How often the supervisor checks its workers."""
    worker_hang_seconds: float = 60.0
    """A worker that has not answered for this long is killed and replaced."""
    worker_answer_seconds: float = 5.0
    """How long the supervisor waits for the answer of a worker that may hang, before it does without."""
    worker_restart_seconds: float = 0.1
    """Before a worker is replaced; doubled for each worker in a row that ended soon after its start."""
    worker_stable_seconds: float = 60.0
    """A worker that ended within so many seconds of its start ended soon."""
    worker_attempts: int = 5
    """Replacements in a row that end before they listen; after these the supervisor gives up."""

    max_shadow_copies: int = 64
    """Copies of requests that may wait for a route's shadow."""
    max_shadow_bytes: int = 64 << 20
    """What their inputs and the answers may take together."""
    shadow_batch_seconds: float = 0.001
    """How long the copies that are handed over at once should take; a lone copy may take longer."""
    shadow_share_of_time: float = 0.25
    """In how much of the time copies are computed at most."""
    shadow_late_seconds: float = 0.1
    """After how long a timer hands over the copies that wait, and tries again."""

    peer_seconds: float = 20.0
    """gRPC: the time that a peer has for the handshakes of TLS and HTTP/2 and to answer a ping, and that calls have to
    end when their connection is closed."""
    message_seconds: float = 60.0
    """gRPC: how long a call's message may take to come: 16 MiB at 2.3 Mbit/s."""
    max_awaited_messages: int = 1000
    """gRPC: messages that are awaited at once. One more call ends the call that has waited longest: a message usually
    comes with its headers, so that is a call whose message does not come at all."""
    max_streams: int = 1000
    """gRPC: streams of inference that are open at once. Each may keep requests and answers of about one message's size
    in memory, and those that it is sending (docs/serving.md has what it may hold beyond that)."""
    max_watches: int = 1000
    """gRPC: open Watch streams of health. They need no token, so without a limit anybody could fill the memory."""
    max_reflections: int = 32
    """gRPC: reflection streams that are open at once. One more ends the one that has been open for longest: a client
    that uses its stream is done with it in a moment, so that is one that was forgotten."""
    reflection_seconds: float = 60.0
    """gRPC: how long a reflection stream may be open."""

    request_seconds: float = 20.0
    """HTTP: how long a request may take to come, from the opened connection or its first byte."""
    slowest_request_bytes_per_second: float = 1024.0
    """HTTP: a request that comes this fast in each further ``request_seconds`` may take longer."""
    slowest_answer_bytes_per_second: float = 64.0 * 1024
    """HTTP: after ``request_seconds`` an answer must be read this fast on average, and some of it in each
    ``request_seconds``. That is faster than for requests, since what is not read is held: of 16 MiB, the largest by
    default, for five minutes at most."""

    log_burst: int = 20
    """Most warnings and errors of one event that are logged in ten seconds."""
    trace_close_seconds: float = 2.0
    """How long a server that stops waits for the collector of traces to take the last spans."""
