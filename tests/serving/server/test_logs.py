import pytest
import structlog

from serving.server.logs import BURST, PERIOD, RateLimit
from tests.serving.server.parts import Clock


def passes(limit: RateLimit, event: str, method: str = "warning") -> dict[str, object] | None:
    try:
        return dict(limit(None, method, {"event": event}))
    except structlog.DropEvent:
        return None


def test_what_repeats_is_dropped_and_counted() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    assert [passes(limit, "bad") is not None for _ in range(BURST + 7)] == [True] * BURST + [False] * 7
    assert passes(limit, "worse") == {"event": "worse"}  # each event has its own
    clock.now += PERIOD
    assert passes(limit, "bad", "error") == {"event": "bad", "suppressed": 7}
    assert passes(limit, "bad", "exception") == {"event": "bad"}


@pytest.mark.parametrize("method", ["info", "debug"])
def test_what_is_no_problem_is_never_dropped(method: str) -> None:
    limit = RateLimit(Clock())
    assert all(passes(limit, "model loaded", method) for _ in range(10 * BURST))
