"""Who polls: of the threads that could, one leads; the others follow, asleep, until it passes the lead on."""

import threading
from collections import deque


class Lead:
    """A token with a line. ``vacant`` is set when the lead is given up and nobody takes it over, until ``rest``."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._followers: deque[threading.Lock] = deque()
        self._turns = 0
        self.vacant = threading.Event()

    @property
    def turns(self) -> int:
        """How often the lead was taken; who sees it unchanged knows that nobody led meanwhile."""
        return self._turns

    @property
    def wanted(self) -> bool:
        """Somebody waits for the lead."""
        return bool(self._followers)

    def take(self) -> None:
        """Wait for the lead. A thread that comes while it is vacant has it at once, also before those who wait."""
        with self._mutex:
            if not self._held:
                self._held = True
                self._turns += 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._followers.append(turn)
        turn.acquire()

    def take_if_idle(self, turns: int) -> bool:
        """Take the lead if nobody holds it, nor has taken it since ``turns`` was read."""
        with self._mutex:
            if self._held or self._turns != turns:
                return False
            self._held = True
            self._turns += 1
            return True

    def rest(self, turns: int) -> None:
        """Clear ``vacant`` if the lead has been in one hand since ``turns`` was read: that thread waits for calls."""
        if self._turns == turns:
            self.vacant.clear()
            if not self._held:  # it was given up just now, by one that found ``vacant`` set
                self.vacant.set()

    def give(self, *, wake: bool = True) -> None:
        """Pass the lead on to who waits longest. Without ``wake`` nobody is woken: the giver is back in a moment."""
        with self._mutex:
            if wake and self._followers:
                self._turns += 1
                self._followers.popleft().release()  # the lead stays held, by that thread now
                return
            self._held = False
        if not self.vacant.is_set():
            self.vacant.set()
