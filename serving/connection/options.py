"""How a client keeps its connection, which answers it takes, and when it tries a call again."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from hangtag.errors import UserError
from hangtag.serving.connection.method import CONTROL, Method

MAX_RETRIES = 4
"""gRPC makes five attempts of a call at most, the first included."""
# Health checks are missing: a check that fails is the answer that its caller waits for.
RETRIED_SERVICES = ("inference.GRPCInferenceService", "hangtag.v1.Classifier")
BACKOFF_MULTIPLIER = 2.0
_JITTER = 0.2  # gRPC's own
# gRPC does not retry a call whose requests take more than this, 256 KiB by default. They are in memory in any case,
# until they are answered.
_RETRY_BUFFER_BYTES = 1 << 30
# 24 days. gRPC limits how long sent data may stay unacknowledged (TCP_USER_TIMEOUT) only where the time between pings
# is less than the largest number, 2**31 - 1.
_NEVER_MS = 2**31 - 2


class OptionsError(UserError, ValueError):
    """A connection's option is out of its range."""


@dataclass(frozen=True)
class ConnectionOptions:
    """How a client keeps its connection, which answers it takes, and when it tries a call again.

    Args:
        retries: how often a call is tried again that ended with UNAVAILABLE, which means that the server did not take
            it (it is starting, stopping or unreachable) or that the connection broke, or over gRPC with CANCELLED,
            gRPC's answer to calls that arrive at a server while it stops: 0 to 4. The call's deadline covers all
            attempts. Health checks are not tried again, and neither are loads and unloads of models.
        initial_backoff: seconds before the first retry. Each further pause is twice as long, and each is varied at
            random by 20 %, so that the clients of a restarted server do not return all at once.
        max_backoff: the longest pause in seconds.
        round_robin: send each call to the next server of an address that names several (``dns:///HOST:PORT`` with
            several records, or ``ipv4:10.0.0.11:8001,10.0.0.12:8001``), and leave out servers that are unreachable, or
            that their health service says do not serve. False keeps all calls on the first server that answers.
            Over HTTP it has no effect.
        keepalive_seconds: ping the server after so many seconds without traffic, to notice that it vanished; None sends
            no pings. ``hangtag serve`` closes connections that ping more often than its --min-ping-seconds allows.
            Over HTTP there are no pings: a call's deadline ends it.
        keepalive_timeout_seconds: close the connection if a ping is not answered for so many seconds, or, on Linux, if
            the server's machine does not acknowledge what was sent for so long: the calls on it end with
            ``UNAVAILABLE``. Shorter than the calls' deadline, it leaves time to try them again.
        max_message_mib: the largest answer to take, in MiB; None is no limit of the client's own.

    Raises:
        OptionsError: a value is out of its range.

    Example:
        >>> patient = ConnectionOptions(retries=4, max_backoff=5.0, keepalive_seconds=60)
        >>> with Client("127.0.0.1:8001", options=patient) as client:
        ...     client.models()
        ['cnn', 'cnn-int8', 'fast-and-accurate', 'lstm', 'lstm-int8', 'lstm2', 'lstm2-int8']
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
        """The largest answer in bytes; None is no limit."""
        return None if self.max_message_mib is None else round(self.max_message_mib * 1024 * 1024)

    def retry_pauses(self, method: Method[Any]) -> tuple[float, ...]:
        """Return the pauses before each retry of a call in seconds, varied at random, for connections not of gRPC's.

        There are none for a method that is not tried again.
        """
        if method.service not in RETRIED_SERVICES or not method.repeatable:
            return ()
        steps = (self.initial_backoff * BACKOFF_MULTIPLIER**retry for retry in range(self.retries))
        return tuple(_varied(min(step, self.max_backoff)) for step in steps)

    def polling_pauses(self) -> Iterator[float]:
        """Yield the pauses in seconds, without end, between questions whether a server is ready."""
        pause = self.initial_backoff
        while True:
            yield _varied(min(pause, self.max_backoff))
            pause *= BACKOFF_MULTIPLIER

    def channel_arguments(self) -> list[tuple[str, Any]]:
        """Return gRPC's channel arguments for these options.

        The retries and the balancing are gRPC's own: its core repeats a call by the retryPolicy of a service config.
        """
        largest = self.max_message_bytes
        pause = _NEVER_MS if self.keepalive_seconds is None else round(self.keepalive_seconds * 1000)
        timeout = round(self.keepalive_timeout_seconds * 1000)
        return [
            ("grpc.max_receive_message_length", -1 if largest is None else largest),
            ("grpc.service_config", json.dumps(self._service_config())),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.keepalive_time_ms", pause),
            ("grpc.keepalive_timeout_ms", timeout),
            ("grpc.http2.ping_timeout_ms", timeout),  # the longer of the two counts, and this defaults to 60 s
            # A connection that waits for its next call is pinged too, so that this call finds it alive.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # gRPC lets channels of a process that have equal arguments share a connection. A server that ends it for
            # the calls of one client would end those of the others. `resets` counts the calls of one connection too.
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        if self.round_robin:
            # The health check watches each server, whose models may be loading or which may be about to stop.
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
            # gRPC takes the entry that names the method, and this one has no policy.
            never = [dict(zip(("service", "method"), path[1:].split("/"), strict=True)) for path in CONTROL]
            config["methodConfig"] = [{"name": names, "retryPolicy": policy}, {"name": never}]
        return config


def _varied(pause: float) -> float:
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
