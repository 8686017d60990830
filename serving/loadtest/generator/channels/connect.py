"""Connects to a server by the kind of channel that its address asks for, with one call that opens the connection."""

from collections.abc import Callable
from queue import SimpleQueue

from hangtag.extras import needs
from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels.channel import Channel
from hangtag.serving.loadtest.generator.channels.grpc_channels import CompletionQueueChannel, FutureChannel

CHECK_TIMEOUT = 5.0  # Seconds.
_LIVE = "/inference.GRPCInferenceService/ServerLive"


def connect(
    address: str,
    credentials: Credentials,
    *,
    public_api: bool = False,
    private: Callable[[str, Credentials], Channel] = CompletionQueueChannel,
    timeout: float = CHECK_TIMEOUT,
) -> Channel:
    """Open a channel and make one call, so that no measured query pays for the connection.

    An unreachable server raises nothing here: its calls will end with the status UNAVAILABLE.

    Args:
        address: HOST:PORT or a unix: address, for gRPC; a URL, for HTTP.
        credentials: TLS files and token.
        public_api: Use `FutureChannel` even where the completion queue works.
        private: The kind of channel that is tried first, as it is private to grpcio.
        timeout: The deadline of that one call in seconds.

    Raises:
        CredentialsError: When the credentials' files cannot be read.
        TimeoutError: When the first call does not end.
        MissingExtraError: When HTTP is asked for, and the extra `loadtest` is not installed.
    """
    if server_address.is_http(address):
        with needs("loadtest", "A load test over HTTP"):
            from hangtag.serving.loadtest.generator.channels.http_channel import HttpChannel
        from hangtag.serving.loadtest.generator.channels.http_text import LIVE, as_text

        http = HttpChannel(address, credentials)
        _check(http, credentials, timeout, as_text(address, LIVE))
        return http
    if not public_api:
        try:
            fast = private(address, credentials)
            _check(fast, credentials, timeout)
        except (AttributeError, ImportError, TypeError, ValueError, LookupError, TimeoutError):
            pass  # This grpcio version has different internals.
        else:
            return fast
    public = FutureChannel(address, credentials)
    _check(public, credentials, timeout)
    return public


def _check(channel: Channel, credentials: Credentials, timeout: float, request: bytes = b"") -> None:
    """Make one call and wait for its end, whatever its status. Raises TimeoutError when it does not end."""
    codes: SimpleQueue[int] = SimpleQueue()
    metadata = credentials.metadata() or None
    channel.send(_LIVE, request, timeout, metadata, None, lambda *end: codes.put(end[3]))
    try:
        codes.get(timeout=2 * timeout)
    except Exception as error:
        raise TimeoutError("a call did not end") from error
