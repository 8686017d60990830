"""When a shadow's copies are computed: in a part of the time, and also once the route answers no more."""

import threading
import time

import pytest

from hangtag.serving.server.engine.routes import shadow
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.served_model import ServedModel
from tests.serving.server.engine.routes.parts import FP32, counts, echo, engine_with, execute_all, fast, model, shadowed
from tests.serving.server.parts import Caller, FakeRuntime, Outputs, rows


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [0.0005, 0.02])
def test_copies_are_computed_in_a_quarter_of_the_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = Clock()
    monkeypatch.setattr(shadow, "time", clock)
    monkeypatch.setattr(shadow.Shadow, "_start_timer", lambda _self: None)

    def compute(x: object) -> Outputs:
        clock.now += seconds
        return {"y": x}  # type: ignore[dict-item]

    first, other = fast(), model("other", compute)
    both, began = shadowed(engine_with(first, other)), clock.now
    for _ in range(4000):
        both.submit(rows(0.9), FP32, Caller())
        execute_all(first, other)
        clock.now += seconds / 100
    runtime = other.runtime
    assert isinstance(runtime, FakeRuntime)
    assert len(runtime.batches) * seconds / (clock.now - began) == pytest.approx(0.25, rel=0.1)


def wait_until_compared(both: ServedRoute, number: int, *models: ServedModel) -> None:
    """Compute what is queued until so many copies were compared; ends with an error after 10 s."""
    ends = time.monotonic() + 10
    while counts(both).compared < number:
        execute_all(*models)
        assert time.monotonic() < ends
        time.sleep(0.001)


def answer_while_another_waits(both: ServedRoute, first: ServedModel) -> None:
    """Answer a call to the route while its member has another request in the queue, so that the copy must wait."""
    both.submit(rows(0.9), FP32, Caller())
    batch = first.batcher.take(wait=False)
    first.submit(rows(0.5), FP32, Caller())
    first.execute(batch)


def test_a_timer_hands_over_the_copies_after_the_last_answer() -> None:
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    for _ in range(3):
        both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    assert len(other.batcher) == 1, "the first copy goes with the answers"
    wait_until_compared(both, 3, other)
    both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    wait_until_compared(both, 4, other)


def test_the_timer_tries_again_while_a_member_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, late = threading.Semaphore(0), shadow.Shadow._hand_over_late

    def counted(shadow_: shadow.Shadow) -> None:
        late(shadow_)
        tried.release()

    monkeypatch.setattr(shadow.Shadow, "_hand_over_late", counted)
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    answer_while_another_waits(both, first)
    assert all(tried.acquire(timeout=10) for _ in range(2))
    assert len(other.batcher) == 0, "a copy was handed over while a request waited"
    wait_until_compared(both, 1, first, other)


def test_a_closed_route_has_no_timer() -> None:
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    for _ in range(3):
        both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    timer = both._shadow._timer  # type: ignore[union-attr]
    assert timer is not None
    both.close()
    timer.join(timeout=0.05)
    assert not timer.is_alive()


def test_without_a_thread_for_the_timer_the_next_answer_hands_the_copies_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_timer: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refused)
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    answer_while_another_waits(both, first)
    execute_all(first, other)
    assert counts(both).compared == 0
    both.submit(rows(0.9), FP32, Caller())
    wait_until_compared(both, 1, first, other)
