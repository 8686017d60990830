"""What callers noticed of one fault, from the records of their calls."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studies.hosts.caller import OK, Call

_WINDOW = 1.0
_LEAST_SHARE = 0.25
"""Of the calls of a window, where a third would be exact."""


@dataclass(frozen=True)
class Span:
    """The course of a fault, in seconds of the monotonic clock.

    Args:
        begun: just before the host began to fail.
        struck: when it had failed.
        healed: when it had recovered.
        end: the last moment at which a call of this observation was sent.
    """

    begun: float
    struck: float
    healed: float
    end: float


@dataclass(frozen=True)
class Figures:
    """What one caller noticed.

    Attributes:
        calls: calls that ended after the fault began.
        failed: how many of them failed, by their status.
        failed_until_s: seconds from when the host had failed to the sending of the last call that failed; 0 where
            none failed that was sent after it.
        slowest_s: the longest call in seconds.
        overrun_s: the most that a call lasted beyond its deadline, in seconds.
        refused_s: the longest call that ended with RESOURCE_EXHAUSTED, in seconds.
        share: of the calls that were answered while the fault lasted, the host's.
        back_s: seconds from the recovery to the first second in which the host has a quarter or more of the answers;
            None where there is none.
    """

    calls: int
    failed: Mapping[str, int]
    failed_until_s: float
    slowest_s: float
    overrun_s: float
    refused_s: float
    share: float
    back_s: float | None


def figures(calls: Sequence[Call], host: int, timeout: float, span: Span) -> Figures:
    """Return what a caller noticed.

    Args:
        calls: its calls.
        host: the number of the host that failed.
        timeout: the deadline of its calls in seconds.
        span: when the host failed.
    """
    calls = [call for call in calls if call.end >= span.begun and call.start <= span.end]
    failed = [call for call in calls if call.outcome != OK]
    answered = [call for call in calls if call.outcome == OK]
    seconds = [call.end - call.start for call in calls]
    refused = [call.end - call.start for call in failed if call.outcome == "RESOURCE_EXHAUSTED"]
    meanwhile = [call.host == host for call in answered if span.struck <= call.start < span.healed]
    return Figures(
        calls=len(calls),
        failed=dict(Counter(call.outcome for call in failed)),
        failed_until_s=max((call.start - span.struck for call in failed if call.start > span.struck), default=0.0),
        slowest_s=max(seconds, default=0.0),
        overrun_s=max(0.0, max(seconds, default=0.0) - timeout),
        refused_s=max(refused, default=0.0),
        share=sum(meanwhile) / len(meanwhile) if meanwhile else 0.0,
        back_s=_back(answered, host, span),
    )


def _back(answered: Sequence[Call], host: int, span: Span) -> float | None:
    starts = sorted((call.start, call.host == host) for call in answered if call.start >= span.healed)
    for begin, _ in starts:
        if begin + _WINDOW > span.end:
            break
        window = [its for start, its in starts if begin <= start < begin + _WINDOW]
        if sum(window) / len(window) >= _LEAST_SHARE:
            return begin - span.healed
    return None
