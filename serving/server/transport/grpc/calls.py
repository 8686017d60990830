"""What a gRPC call says of itself: who calls, until when, and what telemetry needs to know of it."""

import time
from typing import Any, TypeAlias

import grpc

from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.call import CallOrigin, LazyMetadata
from hangtag.serving.server.transport.cost_metadata import cost_metadata
from hangtag.serving.server.transport.tracing import Tracing

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def describe_call(method: str, context: Context, tracing: Tracing | None) -> CallOrigin:
    """Return what telemetry and routes need to know of a call."""
    return CallOrigin(method, LazyMetadata(lambda: invocation_metadata(context)), tracing)


def invocation_metadata(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """Return what the caller sent."""
    return tuple(context.invocation_metadata() or ())


def call_deadline(context: Context) -> float | None:
    """Return the call's deadline on the monotonic clock, in seconds; None when the caller has set none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def set_cost(context: Context, timings: Timings) -> None:
    """Send what the query cost as the call's trailing metadata."""
    context.set_trailing_metadata(cost_metadata(timings))
