"""Reads single keys from a terminal while a command waits."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

QUIT = b"q"


class Keyboard:
    """Waits, and ends a wait when `q` is pressed. Without a terminal as standard input it just waits."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def quits_within(self, seconds: float) -> bool:
        """Wait for this time; return True at once when `q` is pressed."""
        if self._descriptor is None:
            sleep(seconds)
            return False
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0:
            if select.select([self._descriptor], [], [], left)[0]:
                pressed = os.read(self._descriptor, 64)
                if QUIT in pressed.lower():
                    return True
                if not pressed:  # The terminal is gone.
                    self._descriptor = None
                    return self.quits_within(end - monotonic())
        return False


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Let single keys be read, without Enter and without showing them, until the context ends."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield Keyboard(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)  # Ctrl-C still interrupts.
        yield Keyboard(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
