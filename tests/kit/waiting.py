"""Waits for other threads and processes."""

import time
from collections.abc import Callable

TIMEOUT = 60.0
"""The number of seconds after which a test stops waiting and fails."""
_PAUSE_SECONDS = 0.005


def until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait until a condition holds. Raises AssertionError if the condition does not hold in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"{condition} did not hold within {seconds:g} s"
        time.sleep(_PAUSE_SECONDS)


def pass_time(seconds: float) -> None:
    """Sleep for a fixed time, to imitate a slow server or to check that nothing happens meanwhile."""
    time.sleep(seconds)
