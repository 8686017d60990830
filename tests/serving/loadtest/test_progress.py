"""The progress of a load test, in a terminal and in a log."""

import io
import re

from rich.console import Console

from hangtag.serving.loadtest.cli import terminal
from tests.kit.command import invoke
from tests.kit.fake_server import FakeServer
from tests.kit.waiting import pass_time


def test_a_terminal_has_a_line_that_changes_and_nothing_afterwards(server: FakeServer) -> None:
    # The probe call that precedes the queries takes longer than the interval at which the line is redrawn.
    server.behaviour = lambda number, _: pass_time(0.01 if number else 1.2 / terminal.DRAWS_PER_SECOND)
    limits = ("--blocks", 1, "--min-duration", "1.5s", "--min-query-count", 1, "--warm-up", 0, "--concurrency", 1)
    variables = {"FORCE_COLOR": "1", "NO_COLOR": "1"}
    result = invoke("loadtest", "fast", "--server", server.address, *limits, exit_code=None, variables=variables)
    first, *drawn, left = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", each) for each in result.stderr.split("\x1b[2K")]
    assert "connecting ..." in first
    line = r"fast, 1 in flight: [\d,.]+ calls/s; [01] s left"
    assert any(re.fullmatch(line, " ".join(each.split())) for each in drawn)
    assert left.strip() == ""


def test_a_log_has_an_occasional_line() -> None:
    """A log gets a line every ten seconds, even if the values change more often."""
    line = "cnn, 500 calls/s: 499 calls/s; 9 s left"
    written, seconds = io.StringIO(), 0.0
    with terminal.live(Console(file=written, width=20), clock=lambda: seconds) as show:
        for seconds in (0.0, 9.9, 10.0, 15.0, 19.9, 20.0):  # noqa: B007
            show(line)
    assert written.getvalue().splitlines() == [line, line]
