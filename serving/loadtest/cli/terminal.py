"""Shows a test's progress on standard error, stops a test on a signal, and writes the test's reports."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hangtag.options import json_option
from hangtag.output import OutputError, require_writable, write_text
from hangtag.printable import escaped
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.gates import GateOutcome
from hangtag.serving.loadtest.measuring.accuracy import AccuracyProgress
from hangtag.serving.loadtest.measuring.interleaving import Progress
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.report import json_document, tabular

# The line on a terminal is drawn only twice a second, because drawing takes CPU time from a server on the same machine.
DRAWS_PER_SECOND = 2
# The seconds between two lines if standard error is not a terminal, so that a CI log shows progress but stays short.
LINE_INTERVAL = 10.0

AnyProgress = Progress | AccuracyProgress


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[AnyProgress], None]]:
    """Show live figures in this context: on a terminal in a line that changes, else in a new line every 10 seconds.

    Yields a function that must be called with each Progress.
    """
    due = clock() + LINE_INTERVAL

    def print_now_and_then(progress: AnyProgress) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + LINE_INTERVAL
            console.print(_line(progress), soft_wrap=True)

    if not console.is_terminal:
        yield print_now_and_then
        return
    connecting = Text("connecting ...", style="dim")
    with Live(connecting, console=console, refresh_per_second=DRAWS_PER_SECOND, transient=True) as shown:
        yield lambda progress: shown.update(_line(progress))


def _line(progress: AnyProgress) -> Text:
    if isinstance(progress, AccuracyProgress):
        share = f"{progress.correct / progress.done:.2%}" if progress.done else units.NONE
        done = f"{units.count(progress.done)} of {units.count(progress.total)} samples"
        return Text(escaped(f"{progress.target}, accuracy: {done}, {share} right so far"))
    block, now = progress.block, progress.snapshot
    return Text(
        escaped(
            f"{block.target}, {block.load}: {units.three_digits(now.rate)} calls/s, p50 {units.duration(now.p50)}, "
            f"p99 {units.duration(now.p99)}, {units.count(now.failed)} errors; {max(progress.ahead, 0.0):.0f} s left"
        )
    )


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets. A second signal ends the process as usual."""
    stop = threading.Event()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in handlers:
        signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        restore()


_Command = TypeVar("_Command", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)
STDOUT = Path("-")


def _html(results: Results, comparisons: Sequence[Comparison], outcomes: Sequence[GateOutcome]) -> str:
    from hangtag.serving.loadtest.report import html  # imported here, because importing matplotlib takes long

    return html.render(results, comparisons, outcomes)


# The options for report files, each with its help text and the function that renders the file.
REPORTS: Mapping[str, tuple[str, Callable[..., str]]] = MappingProxyType(
    {
        "json": ("all results", json_document.render),
        "csv": ("Write CSV with a line for each run.", tabular.render_csv),
        "html": ("Write a page with charts.", _html),
        "junit": ("Write JUnit XML with a test for each run and each --fail-if.", tabular.render_junit),
    }
)


def report_file_options(command: _Command) -> _Command:
    """Add an option for each report to a click command, whose parameters are then `json_file`, `csv_file` and so on."""
    for name, (text, _) in reversed(list(REPORTS.items())):
        option = click.option(f"--{name}", f"{name}_file", type=FILE, help=text)
        command = (json_option(text, FILE) if name == "json" else option)(command)
    return command


def write(texts: Mapping[Path, Callable[[], str]]) -> None:
    """Write these texts to their files. If a file cannot be written, the other files are still written.

    Raises:
        OutputError: some files could not be written. The message names each unwritable file.
    """
    problems = []
    for file, render in texts.items():
        text = render()
        try:
            write_text(str(file), text)
        except OutputError as error:
            problems.append(str(error))
    if problems:
        raise OutputError("; ".join(problems))


def require_all_writable(*files: Path | None) -> None:
    """Check before the run that each file can be written. Raises OutputError for the first unwritable file."""
    for file in files:
        if file not in (None, STDOUT):
            require_writable(file)
