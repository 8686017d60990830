"""How a client keeps its connection alive, which answers it accepts, and when it repeats a call."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from hangtag.errors import UserError
from hangtag.protos import methods
from hangtag.serving.connection.method import CONTROL, Method

MAX_RETRIES = 4
"""gRPC makes at most five attempts of a call, including the first."""
# Health checks are not retried: a failed check is itself the answer that the caller waits for.
RETRIED_SERVICES = (methods.INFERENCE, methods.CLASSIFIER)
_RETRIED_PATHS = tuple(f"/{service}/" for service in RETRIED_SERVICES)
BACKOFF_MULTIPLIER = 2.0
_JITTER = 0.2  # the value that gRPC uses
# gRPC does not retry a call whose requests are larger than this limit, which is 256 KiB by default.
_RETRY_BUFFER_BYTES = 1 << 30
# The longest interval of pings, 24 days. One more millisecond means "no pings" to gRPC, which then also turns off its
# limit on how long sent data may stay unacknowledged (TCP_USER_TIMEOUT).
_NEVER_MS = 2**31 - 2


class OptionsError(UserError, ValueError):
    """The value of an option is out of range."""


@dataclass(frozen=True)
class ConnectionOptions:
    """How a client keeps its connection alive, which answers it accepts, and when it repeats a call.

    Args:
        retries: how many times to repeat a failed call, 0 to 4. The client repeats a call that ended with UNAVAILABLE:
            the server is starting, stopping or unreachable, or the connection broke. Over gRPC the client also repeats
            a call that ended with CANCELLED, the status of calls that arrive while a server stops.
            The call's deadline covers all attempts. Health checks, loads and unloads of models are never repeated.
        initial_backoff: seconds before the first retry. Each later pause is twice as long as the pause before it. All
            pauses vary at random by 20 %.
        max_backoff: the longest pause in seconds.
        round_robin: if the address names several servers (``dns:///HOST:PORT`` with several records, or
            ``ipv4:10.0.0.11:8001,10.0.0.12:8001``), send calls to the servers in turn, and skip servers that are
            unreachable or whose health service says that they do not serve. False sends all calls to the first server
            that answers. Has no effect over HTTP.
        keepalive_seconds: ping the server after this many seconds without traffic, to notice that the server has
            vanished. None sends no pings. ``hangtag serve`` answers every ping; gRPC's own servers by default close
            connections that ping more often than every five minutes. Has no effect over HTTP.
        keepalive_timeout_seconds: close the connection if the server does not answer a ping within this many seconds,
            or, on Linux, if the server's machine does not acknowledge sent data for this long. The calls on the
            connection then end with ``UNAVAILABLE``. A value below a call's deadline leaves time to repeat the call.
        max_message_mib: the largest answer to accept, in MiB; None sets no limit in the client.

    Raises:
        OptionsError: a value is out of range.

    Example:
        >>> patient = ConnectionOptions(retries=4, max_backoff=5.0, keepalive_seconds=60)
        >>> with Client("127.0.0.1:8001", options=patient) as client:
        ...     client.models()[:3]
        ['cnn', 'cnn-int8', 'cnn-small']
    """

    retries: int = 3
    initial_backoff: float = 0.1
    max_backoff: float = 1.0
    round_robin: bool = False
    keepalive_seconds: float | None = None
    keepalive_timeout_seconds: float = 5.0
    max_message_mib: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= MAX_RETRIES:
            raise OptionsError(f"retries must be from 0 to {MAX_RETRIES}, not {self.retries}")
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, bool) and not 0 < value < float("inf"):
                raise OptionsError(f"{field.name} must be greater than 0, not {value}")

    @property
    def max_message_bytes(self) -> int | None:
        return None if self.max_message_mib is None else round(self.max_message_mib * 1024 * 1024)

    def retry_pauses(self, method: Method[Any]) -> Iterator[float]:
        """Yield the pauses in seconds before the retries of a call over HTTP: none if the client does not repeat it."""
        retried = method.path.startswith(_RETRIED_PATHS) and method.path not in CONTROL
        return itertools.islice(self.polling_pauses(), self.retries if retried else 0)

    def polling_pauses(self) -> Iterator[float]:
        """Yield an endless series of pauses, in seconds, between readiness checks."""
        pause = self.initial_backoff
        while True:
            yield min(pause, self.max_backoff) * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
            pause *= BACKOFF_MULTIPLIER

    def channel_arguments(self) -> list[tuple[str, Any]]:
        """Return gRPC's channel arguments, with which gRPC itself retries and balances calls."""
        largest = self.max_message_bytes
        pause = _NEVER_MS if self.keepalive_seconds is None else round(self.keepalive_seconds * 1000)
        timeout = round(self.keepalive_timeout_seconds * 1000)
        return [
            ("grpc.max_receive_message_length", -1 if largest is None else largest),
            ("grpc.service_config", json.dumps(self._service_config())),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.keepalive_time_ms", pause),
            ("grpc.keepalive_timeout_ms", timeout),
            # gRPC applies the longer of the two timeouts, and ping_timeout_ms is 60 s by default.
            ("grpc.http2.ping_timeout_ms", timeout),
            # Idle connections are pinged too, so that the next call finds a live connection.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Each client has its own connection: a server may close a connection because of one client's calls.
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        if self.round_robin:
            # A server may still be loading models, or be about to stop, so gRPC watches each server's health.
            config |= {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
        if self.retries:
            policy = {
                "maxAttempts": self.retries + 1,
                "initialBackoff": f"{self.initial_backoff:f}s",
                "maxBackoff": f"{self.max_backoff:f}s",
                "backoffMultiplier": BACKOFF_MULTIPLIER,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            }
            names = [{"service": service} for service in RETRIED_SERVICES]
            # gRPC prefers an entry that names the method. Without a retry policy, gRPC never retries loads and unloads.
            never = [dict(zip(("service", "method"), path[1:].split("/"), strict=True)) for path in CONTROL]
            config["methodConfig"] = [{"name": names, "retryPolicy": policy}, {"name": never}]
        return config
