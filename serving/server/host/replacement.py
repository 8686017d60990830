"""Decides when a process that has ended is replaced, and when its supervisor gives up."""

LONGEST_DELAY = 30.0
"""The longest delay before a replacement, in seconds."""


class ReplacementPolicy:
    """Exponential backoff for replacements. Not thread-safe."""

    def __init__(self, first_delay: float, max_attempts: int, stable_seconds: float) -> None:
        """Create a policy that has seen no failed replacement yet.

        Args:
            first_delay: The delay before a replacement in seconds. The delay doubles with each further short-lived
                process in a row.
            max_attempts: The supervisor gives up after this many replacements in a row that ended before they listened.
            stable_seconds: A process is short-lived if it ran for fewer seconds than this.
        """
        self._first_delay = first_delay
        self._max_attempts = max_attempts
        self._stable_seconds = stable_seconds
        self._short_lives = 0
        self._attempts = 0

    def on_listening(self) -> None:
        """Forget the failed replacements. Call this method once a process is listening."""
        self._attempts = 0

    def delay_after(self, lifetime: float, *, failed: bool) -> float | None:
        """Return the seconds to wait before replacing a process that has ended; None to give up.

        Args:
            lifetime: How many seconds the process ran.
            failed: Whether the process counts as a failed replacement, because it never listened.
        """
        self._attempts += failed
        self._short_lives = 0 if lifetime >= self._stable_seconds else self._short_lives + 1
        if self._attempts >= self._max_attempts:
            return None
        return min(LONGEST_DELAY, self._first_delay * 2.0 ** max(0, self._short_lives - 1))
