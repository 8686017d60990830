"""Compares a request's deadline with the time that its answer needs: on admission, on holding it, on cancellation."""

from hangtag.serving.server.batching.call import Call
from hangtag.serving.server.errors import CancelledError, DeadlineError, ServerError

TOO_LATE = "the deadline passed while the request waited, or would have passed before its answer, so it was dropped"

RESERVED_SHARE = 0.2
"""Time before the call is read and after the answer is sent is invisible to the batcher. While every instance is busy
that time is long, so 20 % of the time to the deadline is reserved for it. Without this, a queue as long as the deadline
answers nearly every request just too late (docs/performance.md)."""

# A client cancels by its own clock when its deadline passes, and gRPC's core sends the deadline rounded up by at most a
# hundredth of the time left (timeout_encoding.cc). So a cancellation this close to the deadline is one at the deadline;
# the millisecond is for the time on the way.
_SLACK_SHARE = 0.01
_SLACK_SECONDS = 0.001


def require_time(call: Call, expected: float, *, busy: bool, now: float) -> None:
    """Set the request's ``ready_by``, or refuse it if its deadline cannot be met.

    Args:
        call: Its ``ready_by`` stays None if it has no deadline.
        expected: Seconds from now until it would be computed.
        busy: Whether every instance computes.
        now: Seconds on the monotonic clock.

    Raises:
        DeadlineError: The request would be computed later than ``ready_by``.
    """
    if call.deadline is None:
        return
    remaining = call.deadline - now
    share = 1 - RESERVED_SHARE if busy else 1.0
    call.ready_by = now + share * remaining
    if call.ready_by < now + expected:
        left = f"is in {remaining * 1e3:.1f} ms" if remaining > 0 else "has passed"
        raise DeadlineError(
            f"an answer needs about {expected / share * 1e3:.1f} ms now and the deadline {left}; nothing was started. "
            "Allow more time, or try again later"
        )


def hold_seconds(call: Call, max_delay: float, full_batch_seconds: float, now: float) -> float:
    """Return how long a request may be held back: max_delay, but at most half of what its deadline leaves to spare."""
    if call.ready_by is None:
        return max_delay
    spare = call.ready_by - now - full_batch_seconds
    return min(max_delay, max(0.0, spare / 2))


def cancellation_error(call: Call, now: float) -> ServerError:
    """Return the error for a request whose client cancels: DeadlineError at its deadline, else CancelledError."""
    if call.deadline is not None:
        slack = _SLACK_SHARE * (call.deadline - call.enqueued) + _SLACK_SECONDS
        if call.deadline - now <= slack:
            return DeadlineError("the deadline passed before there was an answer")
    return CancelledError("the caller cancelled the request")
