import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog
import structlog.testing

from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.log import (
    BURST,
    INFO_BURST,
    PERIOD,
    RateLimit,
    configure_log,
    redirect_library_log,
)
from tests.serving.server.parts import Caller, Clock, FakeRuntime, rows, served


def passes(limit: RateLimit, event: str, method: str = "warning", **values: object) -> dict[str, object] | None:
    try:
        return dict(limit(None, method, {"event": event, **values}))
    except structlog.DropEvent:
        return None


def test_repeated_problems_are_dropped_and_counted() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    assert [passes(limit, "bad") is not None for _ in range(BURST + 7)] == [True] * BURST + [False] * 7
    assert passes(limit, "worse") == {"event": "worse"}  # each event has its own
    clock.now += PERIOD
    assert passes(limit, "bad", "error") == {"event": "bad", "suppressed": 7}
    assert passes(limit, "bad", "exception") == {"event": "bad"}


def test_repeated_lines_that_are_no_problem_are_dropped_and_counted_for_each_model() -> None:
    """A client may load and unload a model as often as it likes, and the start loads many models."""
    clock = Clock()
    limit = RateLimit(clock)
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


class Unwritable(io.StringIO):
    """A standard error whose reader has ended."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def _log_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def closed() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.usefixtures("_log_as_before")
@pytest.mark.parametrize("there", [Unwritable(), closed(), None], ids=["nobody reads", "closed", "none"])
def test_a_log_that_cannot_be_written_fails_no_call(monkeypatch: pytest.MonkeyPatch, there: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stderr", there)
    configure_log()
    runtime = FakeRuntime()
    runtime.compute = lambda x: {"y": x[7:][0]}
    model, ended = served(runtime), threading.Event()
    structlog.get_logger().info("nobody hears this")
    first, second = Caller(), Caller()

    def broken(outcome: InferenceResult | ServerError) -> None:
        second(outcome)
        ended.set()
        raise RuntimeError("the caller's own")

    model.start()
    model.submit(rows(1), {"x": "FP32"}, first)
    model.submit(rows(2), {"x": "FP32"}, broken)
    assert ended.wait(30)
    model.close()
    assert [str(caller.outcome)[:16] for caller in (first, second)] == ["the batch failed"] * 2
