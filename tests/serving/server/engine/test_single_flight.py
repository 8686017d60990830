import threading
from collections.abc import Callable

import pytest

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


def test_callers_during_an_execution_share_one_more() -> None:
    single_flight, work = SingleFlight(), Work()
    executions = [single_flight.do("a", work.named("a"))]
    assert work.started.acquire(timeout=TIMEOUT)
    executions += [single_flight.do("a", work.named("a")) for _ in range(20)]
    executions.append(single_flight.do("b", work.named("b")))
    work.released.set()
    for execution in executions:
        execution.result(TIMEOUT)
    assert work.executions == ["a", "a", "b"]
    assert single_flight._waiting == {}


def test_a_failure_reaches_every_caller_of_that_execution_and_no_other() -> None:
    single_flight, work = SingleFlight(), Work()
    holding = single_flight.do("b", work.named("b"))
    assert work.started.acquire(timeout=TIMEOUT)
    shared = [single_flight.do("a", work.named("a", LookupError("gone"))) for _ in range(3)]
    work.released.set()
    holding.result(TIMEOUT)
    for execution in shared:
        with pytest.raises(LookupError, match="gone"):
            execution.result(TIMEOUT)
    assert work.executions == ["b", "a"]
    single_flight.do("a", work.named("a")).result(TIMEOUT)
    with pytest.raises(LookupError, match="again"):
        single_flight.do("a", work.named("a", LookupError("again"))).result(TIMEOUT)


def test_what_waits_still_runs_after_the_close() -> None:
    single_flight, work = SingleFlight(), Work()
    running, waiting = (single_flight.do(name, work.named(name)) for name in "ab")
    single_flight.close()
    work.released.set()
    running.result(TIMEOUT)
    waiting.result(TIMEOUT)
    assert work.executions == ["a", "b"]
