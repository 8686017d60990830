"""The log rarely repeats a line, is printable whatever callers send, and has colours in a terminal."""

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import structlog
import structlog.testing

from hangtag import Client
from hangtag.serving.server.telemetry.log import (
    INFO_BURST,
    PERIOD,
    RateLimit,
    configure_log,
    redirect_library_log,
)
from tests.kit import onnx_models
from tests.kit.gate import Gates
from tests.kit.kinds import message_of
from tests.kit.live import index
from tests.kit.parts import Clock
from tests.kit.server import server

BURST = 20


def passes(limit: RateLimit, event: str, method: str = "warning", **values: object) -> dict[str, object] | None:
    try:
        return dict(limit(None, method, {"event": event, **values}))
    except structlog.DropEvent:
        return None


def test_repeated_problems_are_dropped_and_counted() -> None:
    clock = Clock()
    limit = RateLimit(BURST, clock)
    assert [passes(limit, "bad") is not None for _ in range(BURST + 7)] == [True] * BURST + [False] * 7
    assert passes(limit, "worse") == {"event": "worse"}  # each event has its own limit
    clock.now += PERIOD
    assert passes(limit, "bad", "error") == {"event": "bad", "suppressed": 7}
    assert passes(limit, "bad", "exception") == {"event": "bad"}


def test_repeated_lines_that_are_no_problem_are_dropped_and_counted_for_each_model() -> None:
    """If one model is loaded often, most lines are dropped. If many models are loaded once each, all lines are kept."""
    clock = Clock()
    limit = RateLimit(BURST, clock)
    first = [passes(limit, "model loaded", "info", model="cnn", seconds=n) is not None for n in range(INFO_BURST + 7)]
    assert first == [True] * INFO_BURST + [False] * 7
    assert all(passes(limit, "model loaded", "info", model=f"model-{number}") for number in range(10 * BURST))
    assert all(passes(limit, "worker listens", "info", worker=number) for number in range(10 * BURST))
    assert passes(limit, "model unloaded", "info", model="cnn") is not None
    clock.now += PERIOD
    again = passes(limit, "model loaded", "info", model="cnn")
    assert again == {"event": "model loaded", "model": "cnn", "suppressed": 7}


def secret() -> None:
    raise ValueError("secret")


def test_of_a_library_that_gets_what_callers_send_no_value_is_logged() -> None:
    redirect_library_log("a_library", with_values=False)
    library = logging.getLogger("a_library.part")
    with structlog.testing.capture_logs() as log:
        try:
            secret()
        except ValueError as error:
            library.exception("Invalid value %s", "secret")
            library.exception(f"Invalid value {error}")
            library.error(error)
        library.warning("Invalid values %r and %d", b"secret", 7)
        library.info("what is no problem is not logged")
    assert "secret" not in str(log)
    assert log[0]["raised_at"].startswith("test_log.py:")
    raised = {"log_level": "error", "error": "ValueError", "raised_at": log[0]["raised_at"]}
    assert log == [
        {"event": "a_library.part", "reason": "Invalid value %s", **raised},
        {"event": "a_library.part", **raised},
        {"event": "a_library.part", "log_level": "error"},
        {"event": "a_library.part", "log_level": "warning", "reason": "Invalid values %r and %d"},
    ]


@pytest.fixture
def _log_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Unwritable(io.StringIO):
    """A standard error stream that nobody reads any more."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.usefixtures("_log_as_before")
@pytest.mark.parametrize("there", [Unwritable(), closed(), None], ids=["nobody reads", "closed", "none"])
def test_a_log_that_cannot_be_written_fails_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: io.StringIO | None
) -> None:
    onnx_models.publish_all(tmp_path, "gather")
    monkeypatch.setattr(sys, "stderr", there)
    configure_log()
    gates = Gates()
    with server(tmp_path, runtimes=gates, http_port=-1) as running, Client(running.address) as client:
        with gates.failing("gather"):
            message_of(grpc.StatusCode.INTERNAL, client.infer, "gather", {"index": index(1)})
        assert client.infer("gather", {"index": index(1)})["value"].tolist() == [10]


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
Call = Callable[[structlog.BoundLogger], object]
Logged = Callable[[Call], str]


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch, _log_as_before: None) -> Callable[..., str]:
    """Returns what one call of the logger writes to a pipe or to a terminal."""

    def of(call: Call, *, terminal: bool = True, coloured: bool = False) -> str:
        written = io.StringIO()
        written.isatty = lambda: terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setenv("NO_COLOR", "" if coloured else "1")
        configure_log()
        call(structlog.get_logger())
        return written.getvalue()

    return of


@pytest.fixture(params=[False, True], ids=["key=value", "terminal"])
def logged(request: pytest.FixtureRequest, as_written: Callable[..., str]) -> Logged:
    return lambda call: as_written(call, terminal=request.param)


def failing(text: str) -> Call:
    return lambda log: log.error("unexpected error", exc_info=ValueError(text))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_value_is_one_printable_line_and_a_traceback_has_no_control_characters(logged: Logged, text: str) -> None:
    line = logged(lambda log: log.warning("request failed", request_id=text, names=[text], model=text))
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.encode()
    lines = logged(failing(text)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert "ValueError" in "".join(lines)


def test_a_long_value_is_cut_and_its_length_stated_and_a_long_traceback_keeps_its_end(logged: Logged) -> None:
    line = logged(lambda log: log.warning("request failed", request_id="i" * 1_000_000))
    assert len(line) < 2200
    assert "(1,000,000 characters)" in line
    text = logged(failing("e" * 1_000_000 + " the end"))
    assert len(text) < 20_200
    assert "the end" in text


def test_other_values_stay_as_they_are(logged: Logged) -> None:
    line = logged(lambda log: log.info("ready", count=3, share=0.5, models=["cnn", "größe"], file="/a b"))
    assert "größe" in line
    assert "0.5" in line


def test_at_a_terminal_a_line_has_the_local_time_the_event_and_its_values(as_written: Callable[..., str]) -> None:
    line = as_written(lambda log: log.info("model loaded", model="cnn", max_batch_size=64, names=["a", "b"]))
    expected = r"\d\d:\d\d:\d\d \[info +\] model loaded +model=cnn max_batch_size=64 names=\['a', 'b'\]\n"
    assert re.fullmatch(expected, line)
    first, *rest = as_written(failing("here")).splitlines()
    assert "[error    ] unexpected error" in first
    assert rest == ["ValueError: here"]


def test_at_a_terminal_problems_are_coloured_unless_the_operator_wants_no_colour(
    as_written: Callable[..., str],
) -> None:
    for method, colour in (("warning", "\x1b[33m"), ("error", "\x1b[31m")):
        assert colour in as_written(lambda log, method=method: getattr(log, method)("broken"), coloured=True)
        assert "\x1b" not in as_written(lambda log, method=method: getattr(log, method)("broken"))
