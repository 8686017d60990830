import threading
import time
from collections.abc import Callable

import pytest

from serving.server.joined import Joined

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


def start(work: Callable[[], None], joined: Joined) -> threading.Thread:
    """A thread, once it waits."""
    before = joined.callers
    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + TIMEOUT
    while joined.callers == before:
        assert time.monotonic() < until
        time.sleep(0.001)
    return thread


def test_however_many_ask_it_is_done_once_more_after_what_has_begun() -> None:
    joined, work = Joined(), Work()
    first = start(lambda: joined.do("a", work.named("a")), joined)
    assert work.begun.acquire(timeout=TIMEOUT)
    others = [start(lambda: joined.do("a", work.named("a")), joined) for _ in range(20)]
    another = start(lambda: joined.do("b", work.named("b")), joined)
    assert joined.callers == 22
    work.let_go.set()
    for thread in (first, *others, another):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(work.times) == ["a", "a", "b"]
    assert joined.callers == 0


def test_a_failure_is_everybodys_who_waited_for_it_and_nobody_elses() -> None:
    joined, work = Joined(), Work()
    raised: list[Exception] = []

    def ask() -> None:
        try:
            joined.do("a", work.named("a", LookupError("gone")))
        except LookupError as error:
            raised.append(error)

    holding = start(lambda: joined.do("b", work.named("b")), joined)
    assert work.begun.acquire(timeout=TIMEOUT)
    asking = [start(ask, joined) for _ in range(3)]
    work.let_go.set()
    for thread in (holding, *asking):
        thread.join(TIMEOUT)
    assert len(raised) == 3
    assert work.times == ["b", "a"]
    joined.do("a", work.named("a"))
    with pytest.raises(LookupError, match="again"):
        joined.do("a", work.named("a", LookupError("again")))
