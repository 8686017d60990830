"""What carries the generator's calls: one interface, whatever the protocol."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import grpc

clock = time.perf_counter

# Called when a call has ended, with: the token passed to `send`, the times on `clock` at which the call left and ended,
# gRPC's status code (0 is OK), and the status message.
OnEnd = Callable[[Any, float, float, int, str], None]
Metadata = tuple[tuple[str, str | bytes], ...] | None
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Channel(Protocol):
    """A way to one server, for calls on serialised requests."""

    name: str

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """Start a call.

        Args:
            method: The full gRPC method name, for example /inference.GRPCInferenceService/ModelInfer; an HTTP request
                has it in its text.
            request: The serialised message; for HTTP the whole text of the request.
            timeout: The call's deadline in seconds from now.
            metadata: gRPC metadata of the call, or more headers.
            token: Passed to `on_end`, to identify the call.
            on_end: Called once, on another thread, when the call has ended. It must not raise.
        """

    def close(self) -> None:
        """Close the channel. Calls in flight are cancelled, and `on_end` is called for each."""
