import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from hangtag.serving.server.engine import single_flight as joined_module
from hangtag.serving.server.engine.single_flight import SingleFlight

TIMEOUT = 30.0


class Work:
    """Blocks until it is let go, and counts."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.times: list[str] = []

    def named(self, name: str, error: Exception | None = None) -> Callable[[], None]:
        def work() -> None:
            self.times.append(name)
            self.begun.release()
            assert self.let_go.wait(TIMEOUT)
            if error is not None:
                raise error

        return work


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released whenever somebody has registered work, or waits for what somebody else has registered."""
    released = threading.Semaphore(0)

    class Noted(Future[None]):
        def __init__(self) -> None:
            super().__init__()
            released.release()

        def result(self, timeout: float | None = None) -> None:
            released.release()
            super().result(timeout)

    monkeypatch.setattr(joined_module, "Future", Noted)
    return released


def start(work: Callable[[], None], waits: threading.Semaphore) -> threading.Thread:
    """A thread, once it waits."""
    thread = threading.Thread(target=work)
    thread.start()
    assert waits.acquire(timeout=TIMEOUT)
    return thread


def test_however_many_ask_it_is_done_once_more_after_what_has_begun(waits: threading.Semaphore) -> None:
    joined, work = SingleFlight(), Work()
    first = start(lambda: joined.do("a", work.named("a")), waits)
    assert work.begun.acquire(timeout=TIMEOUT)
    others = [start(lambda: joined.do("a", work.named("a")), waits) for _ in range(20)]
    another = start(lambda: joined.do("b", work.named("b")), waits)
    work.let_go.set()
    for thread in (first, *others, another):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(work.times) == ["a", "a", "b"]
    assert joined._waiting == {}


def test_a_failure_is_everybodys_who_waited_for_it_and_nobody_elses(waits: threading.Semaphore) -> None:
    joined, work = SingleFlight(), Work()
    raised: list[Exception] = []

    def ask() -> None:
        try:
            joined.do("a", work.named("a", LookupError("gone")))
        except LookupError as error:
            raised.append(error)

    holding = start(lambda: joined.do("b", work.named("b")), waits)
    assert work.begun.acquire(timeout=TIMEOUT)
    asking = [start(ask, waits) for _ in range(3)]
    work.let_go.set()
    for thread in (holding, *asking):
        thread.join(TIMEOUT)
    assert len(raised) == 3
    assert work.times == ["b", "a"]
    joined.do("a", work.named("a"))
    with pytest.raises(LookupError, match="again"):
        joined.do("a", work.named("a", LookupError("again")))
