"""Shows a test's progress on standard error, stops a test on a signal, and writes the test's reports."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hangtag.output import OutputError, require_writable, write_text
from hangtag.printable import escaped

# The line on a terminal is drawn only twice a second, because drawing takes CPU time from a server on the same machine.
DRAWS_PER_SECOND = 2
# The seconds between two lines if standard error is not a terminal, so that a CI log shows progress but stays short.
LINE_INTERVAL = 10.0


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the progress. On a terminal, each text replaces the previous text; otherwise, a line
    is printed every 10 seconds."""
    if console.is_terminal:
        connecting = Text("connecting ...", style="dim")
        with Live(connecting, console=console, refresh_per_second=DRAWS_PER_SECOND, transient=True) as shown:
            yield lambda progress: shown.update(Text(escaped(progress)))
        return
    due = clock() + LINE_INTERVAL

    def print_now_and_then(progress: str) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + LINE_INTERVAL
            console.print(Text(escaped(progress)), soft_wrap=True)

    yield print_now_and_then


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets. A second signal ends the process as usual."""
    stop = threading.Event()
    handlers: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def interrupt(*_: object) -> None:
        stop.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        restore()


FILE = click.Path(dir_okay=False, path_type=Path)
STDOUT = Path("-")


def write(texts: Mapping[Path, Callable[[], str]]) -> None:
    """Write these texts to their files. If a file cannot be written, the other files are still written, and an
    OutputError names each unwritable file."""
    problems = []
    for file, render in texts.items():
        try:
            write_text(str(file), render())
        except OutputError as error:
            problems.append(str(error))
    if problems:
        raise OutputError("; ".join(problems))


def require_all_writable(*files: Path | None) -> None:
    """Check before the run that each file can be written. Raises OutputError for the first unwritable file."""
    for file in files:
        if file not in (None, STDOUT):
            require_writable(file)
