"""Chooses the transport that ``--transport auto`` stands for, and says why."""

from typing import NamedTuple, Protocol

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.transport.native import availability

NATIVE, GRPC = "native", "grpc"


class Transport(Protocol):
    """What a server listens with."""

    def start(self) -> int:
        """Listen, and return the port. Raises StartError when the address is not free or not this machine's."""

    def refresh_health(self) -> None:
        """Set health to what the engine serves now."""

    def stop(self, grace: float) -> None:
        """Set health to NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""

    def close(self) -> None:
        """Close the connections. Call it after ``stop`` and after the engine's close, when nothing is computed."""


class TransportChoice(NamedTuple):
    """A transport, ``native`` or ``grpc``, and the reason for it."""

    name: str
    reason: str


def choose_transport(config: ServerConfig) -> TransportChoice:
    """Return the transport to serve with.

    ``auto`` takes native only where nobody but this machine's programs can connect, because native sets no limit on the
    size of a message before it is read, nor on how long a connection may do nothing.

    Raises:
        StartError: ``--transport native``, and pygrpc-native is missing or was not tested.
    """
    if config.transport == GRPC:
        return TransportChoice(GRPC, "--transport grpc")
    problem = availability.problem()
    if config.transport == NATIVE:
        if problem:
            raise StartError(f"--transport native cannot be used: {problem}. Or use --transport grpc.")
        return TransportChoice(NATIVE, "--transport native")
    if config.tls_cert is not None:
        return TransportChoice(GRPC, "TLS is on, which native does not have")
    if not config.is_loopback:
        return TransportChoice(GRPC, "the address is not loopback, and native does not limit what clients send")
    if problem:
        return TransportChoice(GRPC, problem)
    return TransportChoice(NATIVE, "TLS is off and the address is loopback")
