"""Waits for the effects of a program that runs in another thread or process."""

import time
from collections.abc import Callable

TIMEOUT = 60.0
"""The number of seconds after which a test stops waiting and fails."""
_PAUSE_SECONDS = 0.005


def until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Return once a repeatedly checked condition holds. Raises AssertionError if it does not hold in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"{condition} did not hold within {seconds:g} s"
        time.sleep(_PAUSE_SECONDS)


def pass_time(seconds: float) -> None:
    """Sleep for this long, as a slow server does, or while nothing may happen. No event ends this pause."""
    time.sleep(seconds)
