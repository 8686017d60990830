"""Waits for what a program does in a thread or a process of its own."""

import time
from collections.abc import Callable

TIMEOUT = 60.0
"""Seconds after which a test fails that waits for what must come."""
_PAUSE_SECONDS = 0.005


def until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Return once a condition holds, asked again and again. Raises AssertionError if it does not hold in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"{condition} did not hold within {seconds:g} s"
        time.sleep(_PAUSE_SECONDS)


def pass_time(seconds: float) -> None:
    """Take this long, as a slow server does, or let time go by in which nothing may happen. No event ends it."""
    time.sleep(seconds)
