"""Decides when a worker that has ended is replaced, and when the supervisor gives up."""

LONGEST_DELAY = 30.0
"""Seconds before a replacement at most."""


class ReplacementPolicy:
    """Exponential backoff for replacements. Not thread-safe."""

    def __init__(self, first_delay: float, max_attempts: int, stable_seconds: float) -> None:
        """Allow replacements.

        Args:
            first_delay: Seconds before a replacement, doubled for each worker in a row that lived shortly.
            max_attempts: Replacements in a row that may end before they listen.
            stable_seconds: A worker that lived as long as this did not live shortly.
        """
        self._first_delay = first_delay
        self._max_attempts = max_attempts
        self._stable_seconds = stable_seconds
        self._short_lives = 0
        self._attempts = 0

    def on_listening(self) -> None:
        """A worker has come to listen, so replacements work."""
        self._attempts = 0

    def delay_after(self, lifetime: float, *, failed: bool) -> float | None:
        """The seconds to wait before replacing a worker that has ended; None to give up.

        Args:
            lifetime: How many seconds the worker lived.
            failed: Whether it counts as a replacement that failed: it never listened.
        """
        self._attempts += failed
        self._short_lives = 0 if lifetime >= self._stable_seconds else self._short_lives + 1
        if self._attempts >= self._max_attempts:
            return None
        return min(LONGEST_DELAY, self._first_delay * 2.0 ** max(0, self._short_lives - 1))
