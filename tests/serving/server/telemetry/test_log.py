import io
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.telemetry.log import BURST, PERIOD, RateLimit, configure_log
from tests.serving.server.parts import Caller, Clock, FakeRuntime, rows, served


def passes(limit: RateLimit, event: str, method: str = "warning") -> dict[str, object] | None:
    try:
        return dict(limit(None, method, {"event": event}))
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


@pytest.mark.parametrize("method", ["info", "debug"])
def test_lines_that_are_no_problem_are_never_dropped(method: str) -> None:
    limit = RateLimit(Clock())
    assert all(passes(limit, "model loaded", method) for _ in range(10 * BURST))


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
