"""Decides when a process that has ended is replaced, and when its supervisor gives up."""

LONGEST_DELAY = 30.0
"""The most seconds before a replacement."""


class ReplacementPolicy:
    """Exponential backoff for replacements. Not thread-safe."""

    def __init__(self, first_delay: float, max_attempts: int, stable_seconds: float) -> None:
        """Allow replacements.

        Args:
            first_delay: Seconds before a replacement, doubled for each process in a row that was short-lived.
            max_attempts: The most replacements in a row that may end before they listen.
            stable_seconds: A process that ended earlier than this was short-lived.
        """
        self._first_delay = first_delay
        self._max_attempts = max_attempts
        self._stable_seconds = stable_seconds
        self._short_lives = 0
        self._attempts = 0

    def on_listening(self) -> None:
        """Call this when a process listens, so replacements work."""
        self._attempts = 0

    def delay_after(self, lifetime: float, *, failed: bool) -> float | None:
        """The seconds to wait before replacing a process that has ended; None to give up.

        Args:
            lifetime: How many seconds the process ran.
            failed: Whether the process counts as a failed replacement, because it never listened.
        """
        self._attempts += failed
        self._short_lives = 0 if lifetime >= self._stable_seconds else self._short_lives + 1
        if self._attempts >= self._max_attempts:
            return None
        return min(LONGEST_DELAY, self._first_delay * 2.0 ** max(0, self._short_lives - 1))
