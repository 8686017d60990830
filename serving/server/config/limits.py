"""The times and sizes that limit how much of a server one client, file or worker may use."""

from dataclasses import dataclass

_LONGEST_DELAY = 30.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that operators cannot set, in one place, so that tests can lower them: ``ServerConfig(limits=...)``."""

    file_check_seconds: float = 1.0
    """The least seconds between two checks of the certificate and token files, so that few calls read the disk."""
    end_seconds: float = 10.0
    """How long a stopping process may take beyond --drain-seconds before it is killed."""
    worker_check_seconds: float = 1.0
    """How often the supervisor checks its workers."""
    worker_hang_seconds: float = 60.0
    """A worker that has not answered for this long is killed and replaced."""
    worker_answer_seconds: float = 5.0
    """How long the supervisor waits for a worker's answer before it continues without one, as the worker may hang."""
    worker_restart_seconds: float = 0.1
    """The delay before a worker is replaced. The delay doubles with each consecutive worker that ends early."""
    worker_stable_seconds: float = 60.0
    """A worker that ran for fewer seconds than this has ended early."""
    worker_attempts: int = 5
    """The supervisor gives up after this many replacements in succession, if each of them ended before it listened."""

    shadow_share_of_time: float = 0.1
    """The largest share of the time in which a route's shadow may compute copies of requests."""

    max_streams: int = 1000
    """The maximum number of open inference streams over gRPC. A stream's requests and answers may take about as much
    memory as one message of the maximum size, plus the data being sent (docs/reference/limits.md lists the rest)."""
    max_watches: int = 1000
    """The maximum number of open Watch streams of gRPC's health service. Watch streams need no token, so without a
    limit anybody could fill the memory."""
    max_reflections: int = 32
    """The maximum number of open streams of gRPC's reflection. An additional stream ends the oldest stream,
    which its client has probably forgotten: a client uses reflection only for a moment."""
    reflection_seconds: float = 60.0
    """How long a stream of gRPC's reflection may be open."""

    peer_seconds: float = 20.0
    """How long a client may take for each of these: a TLS handshake with Envoy, the last calls on a connection that
    Envoy is closing, and the answer to a ping from Envoy or the native transport."""
    idle_call_seconds: float = 300.0
    """Envoy ends a call (but not a stream) that has sent and received nothing for this long. Either the client does not
    read the answer, or the answer takes longer to compute."""
    envoy_hang_seconds: float = 10.0
    """An Envoy that has not answered for this long is killed and restarted."""
    request_seconds: float = 20.0
    """How long a request's head may take to arrive at Envoy."""
    message_seconds: float = 60.0
    """How long Envoy waits for a whole request, with its body. A message of 16 MiB then needs 2.3 Mbit/s."""

    store_silent_seconds: float = 20.0
    """An object store that sends nothing for this long counts as unavailable."""

    log_burst: int = 20
    """The maximum number of warnings and errors of one event that are logged in ten seconds."""
    trace_close_seconds: float = 2.0
    """How long a stopping server waits for the trace collector to take the last spans."""


class ReplacementPolicy:
    """Decides when a worker or Envoy that has ended is replaced, and when its supervisor gives up. Not thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._short_lives = 0
        self._attempts = 0

    def on_listening(self) -> None:
        """Forget the failed replacements. Call this method as soon as a process listens."""
        self._attempts = 0

    def delay_after(self, lifetime: float, *, failed: bool) -> float | None:
        """Return the seconds to wait before replacing a process that ran for ``lifetime`` seconds; None to give up. A
        process has ``failed`` if it never listened."""
        limits = self._limits
        self._attempts += failed
        self._short_lives = 0 if lifetime >= limits.worker_stable_seconds else self._short_lives + 1
        if self._attempts >= limits.worker_attempts:
            return None
        return min(_LONGEST_DELAY, limits.worker_restart_seconds * 2.0 ** max(0, self._short_lives - 1))
