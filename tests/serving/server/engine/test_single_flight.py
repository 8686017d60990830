import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from hangtag.serving.server.engine import single_flight as single_flight_module
from hangtag.serving.server.engine.single_flight import SingleFlight

TIMEOUT = 30.0


class Work:
    """Work that blocks until a test releases it, and records each execution."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.released = threading.Event()
        self.executions: list[str] = []

    def named(self, name: str, error: Exception | None = None) -> Callable[[], None]:
        def work() -> None:
            self.executions.append(name)
            self.started.release()
            assert self.released.wait(TIMEOUT)
            if error is not None:
                raise error

        return work


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released whenever a caller registers an execution or waits for one."""
    released = threading.Semaphore(0)

    class Noted(Future[None]):
        def __init__(self) -> None:
            super().__init__()
            released.release()

        def result(self, timeout: float | None = None) -> None:
            released.release()
            super().result(timeout)

    monkeypatch.setattr(single_flight_module, "Future", Noted)
    return released


def start(work: Callable[[], None], waits: threading.Semaphore) -> threading.Thread:
    """A thread, once it waits."""
    thread = threading.Thread(target=work)
    thread.start()
    assert waits.acquire(timeout=TIMEOUT)
    return thread


def test_callers_during_an_execution_share_one_more(waits: threading.Semaphore) -> None:
    single_flight, work = SingleFlight(), Work()
    first = start(lambda: single_flight.do("a", work.named("a")), waits)
    assert work.started.acquire(timeout=TIMEOUT)
    others = [start(lambda: single_flight.do("a", work.named("a")), waits) for _ in range(20)]
    another = start(lambda: single_flight.do("b", work.named("b")), waits)
    work.released.set()
    for thread in (first, *others, another):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(work.executions) == ["a", "a", "b"]
    assert single_flight._waiting == {}


def test_a_failure_reaches_every_caller_of_that_execution_and_no_other(waits: threading.Semaphore) -> None:
    single_flight, work = SingleFlight(), Work()
    raised: list[Exception] = []

    def call() -> None:
        try:
            single_flight.do("a", work.named("a", LookupError("gone")))
        except LookupError as error:
            raised.append(error)

    holding = start(lambda: single_flight.do("b", work.named("b")), waits)
    assert work.started.acquire(timeout=TIMEOUT)
    callers = [start(call, waits) for _ in range(3)]
    work.released.set()
    for thread in (holding, *callers):
        thread.join(TIMEOUT)
    assert len(raised) == 3
    assert work.executions == ["b", "a"]
    single_flight.do("a", work.named("a"))
    with pytest.raises(LookupError, match="again"):
        single_flight.do("a", work.named("a", LookupError("again")))
