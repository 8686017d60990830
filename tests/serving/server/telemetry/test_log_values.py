"""What callers and model files put into the log: it stays one printable line of bounded length, in both formats."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from hangtag.serving.server.telemetry.log import configure_log
from hangtag.serving.server.telemetry.log_values import LONGEST_TRACEBACK, LONGEST_VALUE

HOSTILE = {
    "a forged line": "x\nevent=ready level=info",
    "a forged line, by carriage return": "x\rready",
    "a window's title": "\x1b]0;owned\x07",
    "a cleared screen": "\x1b[2J\x1b[H",
    "a C1 control": "\x9b2J",
    "text from right to left": "\u202egnp.exe",
    "a line separator": "x\u2028y\x85z",
    "half of a pair": "\ud800",
}
Logged = Callable[[Callable[[structlog.BoundLogger], object]], str]


@pytest.fixture(params=[False, True], ids=["key=value", "terminal"])
def logged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logged]:
    """Returns what a call of the logger writes, as a pipe or a terminal gets it."""
    before = structlog.get_config()

    class Written(io.StringIO):
        def isatty(self) -> bool:
            return bool(request.param)

    def of(call: Callable[[structlog.BoundLogger], object]) -> str:
        written = Written()
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setenv("NO_COLOR", "1")
        configure_log()
        call(structlog.get_logger())
        return written.getvalue()

    yield of
    structlog.configure(**before)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_value_is_one_printable_line(logged: Logged, text: str) -> None:
    line = logged(lambda log: log.warning("request failed", request_id=text, names=[text], model=text))
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.encode()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_traceback_has_no_control_characters_but_its_own_line_breaks(logged: Logged, text: str) -> None:
    def fail(log: structlog.BoundLogger) -> None:
        log.error("unexpected error", exc_info=ValueError(text))

    lines = logged(fail).split("\n")
    assert all(line.isprintable() for line in lines)
    assert "ValueError" in "".join(lines)


def test_a_long_value_is_cut_and_its_length_stated(logged: Logged) -> None:
    line = logged(lambda log: log.warning("request failed", request_id="i" * 1_000_000))
    assert len(line) < LONGEST_VALUE + 200
    assert "(1,000,000 characters)" in line


def test_a_long_traceback_keeps_its_end(logged: Logged) -> None:
    def fail(log: structlog.BoundLogger) -> None:
        log.error("unexpected error", exc_info=ValueError("e" * 1_000_000 + " the end"))

    text = logged(fail)
    assert len(text) < LONGEST_TRACEBACK + 200
    assert "the end" in text


def test_other_values_stay_as_they_are(logged: Logged) -> None:
    line = logged(lambda log: log.info("ready", count=3, share=0.5, models=["cnn", "größe"], file="/a b"))
    assert "größe" in line
    assert "0.5" in line
