"""Which session computes a batch while no other batch runs, and when a second session is opened."""

import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.runtime.inference_session import Gpu, SessionOpener
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models, shipped
from tests.kit.command import python
from tests.kit.parts import Clock
from tests.kit.server import server
from tests.kit.waiting import until
from tests.serving.server.runtime.seen_sessions import SeenSession

CPUS = sorted(os.sched_getaffinity(0))
COMPARED = 2 * 40
"""The number of batches for a comparison. Each of two sessions computes 8 warm-up batches and 32 measured batches."""
IMAGE = {"image": np.random.default_rng(1).integers(0, 256, (1, 28, 28), dtype=np.uint8)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that advances only when a session computes."""
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


class Timed(SessionOpener):
    """A runtime whose sessions take a given time. The first session has one thread, and the second one has two."""

    def __init__(self, path: Path, clock: Clock, first: float, second: float) -> None:
        super().__init__(path, threads=1, gpu=Gpu())
        self.used: list[str] = []
        """For each batch, the session that computed it: "first" or "second"."""
        self.seconds = {"first": first, "second": second}
        """The seconds that a batch takes in each session, according to the clock."""
        self.is_unchanged = True
        self.sessions: dict[str, SeenSession] = {}
        self._clock = clock
        self.runtime = Runtime(path, provider="cpu", threads=1, opener=self)
        self.runtime.allow_more_threads(2, lambda: self.is_unchanged)

    def open(self, provider: str, *, threads: int | None = None, cuda_graphs: bool = False) -> Any:
        name = "first" if threads is None else "second"
        session = self.sessions[name] = SeenSession(super().open(provider, threads=threads))
        session.before = partial(self._compute, name)
        return session

    def _compute(self, name: str) -> None:
        self.used.append(name)
        self._clock.now += self.seconds[name]

    def alone(self, times: int = 1) -> list[Any]:
        return [self.runtime.run(IMAGE, alone=True) for _ in range(times)]

    def wait_until_open(self) -> None:
        """Wait until the thread that opens a second session has ended."""
        until(lambda: not any(thread.name == "open-session" for thread in threading.enumerate()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return onnx_models.publish(tmp_path, "c", onnx_models.classifier())


def test_the_faster_session_computes_lone_batches_and_answers_alike(path: Path, clock: Clock) -> None:
    timed = Timed(path, clock, 0.010, 0.006)
    timed.alone()
    timed.wait_until_open()
    assert timed.runtime.alone_threads == 1
    timed.alone(COMPARED)
    assert timed.runtime.alone_threads == 2
    assert timed.used == ["first"] + COMPARED // 2 * ["first", "second"]
    timed.used.clear()
    alone, together = (timed.runtime.run(IMAGE, alone=alone) for alone in (True, False))
    assert timed.used == ["second", "first"]
    np.testing.assert_allclose(alone["logits"], together["logits"], rtol=1e-5, atol=1e-5)


def test_both_sessions_are_compared_again_after_a_while(path: Path, clock: Clock) -> None:
    timed = Timed(path, clock, 0.010, 0.006)
    timed.alone()
    timed.wait_until_open()
    timed.alone(COMPARED)
    timed.seconds["second"] = 0.012  # from now on, other programs use the processors
    timed.alone(10_000)
    assert timed.used[-1] == "second"
    assert timed.runtime.alone_threads == 2
    timed.alone(COMPARED + 1)
    assert timed.used[-1] == "first"
    assert timed.runtime.alone_threads == 1


def test_a_second_session_that_often_waits_for_a_processor_is_not_used(path: Path, clock: Clock) -> None:
    """Most batches take less time in the second session, but one eighth of them take more."""
    timed = Timed(path, clock, 0.010, 0.006)
    timed.alone()
    timed.wait_until_open()
    for batch in range(COMPARED):
        timed.seconds["second"] = 0.050 if batch % 16 == 1 else 0.006
        timed.alone()
    assert timed.runtime.alone_threads == 1


def fail() -> None:
    raise RuntimeError("out of memory")


USELESS = {
    "the files have changed": (0.010, 0.001),
    "it cannot be opened": (0.010, 0.001),
    "it fails": (0.010, 0.001),
    "it is not faster": (0.010, 0.009),
    "batches are short": (0.0001, 0.00001),
}
"""A case for each reason not to use a second session: the seconds per batch in the first and in the second session."""


@pytest.mark.parametrize("why", USELESS)
def test_a_second_session_of_no_use_costs_no_request_and_no_memory(path: Path, clock: Clock, why: str) -> None:
    timed = Timed(path, clock, *USELESS[why])
    timed.is_unchanged = why != "the files have changed"
    if why == "it cannot be opened":
        path.unlink()
    for _ in range(20):
        timed.runtime.run(IMAGE)
    assert "second" not in timed.sessions  # no batch had ``alone=True`` so far
    timed.alone()
    timed.wait_until_open()
    if why == "it fails":
        timed.sessions["second"].before = fail
    assert all(answer["logits"].shape == (1, 10) for answer in timed.alone(COMPARED))
    assert timed.runtime.alone_threads == 1
    opened = [weakref.ref(session) for name, session in timed.sessions.items() if name == "second"]
    timed.sessions.clear()
    timed.used.clear()
    timed.alone(3)
    assert timed.used == 3 * ["first"]
    assert [session() for session in opened] == [None] * (why not in ("it cannot be opened", "batches are short"))


def test_a_model_that_is_dropped_without_being_closed_leaves_memory_at_once(path: Path) -> None:
    runtime = Runtime(path, provider="cpu")
    runtime.allow_more_threads(2, lambda: True)
    dropped = weakref.ref(runtime)
    del runtime
    assert dropped() is None


@pytest.mark.skipif(len(CPUS) == 1, reason="one processor has no more threads")
def test_a_file_that_changed_after_its_model_was_loaded_is_not_opened_a_second_time(path: Path, tmp_path: Path) -> None:
    offers: list[Callable[[], bool]] = []

    class Offered(Runtime):
        def allow_more_threads(self, threads: int, is_unchanged: Callable[[], bool]) -> None:
            assert threads > self.threads
            offers.append(is_unchanged)

    with server(tmp_path, runtimes=Offered, http_port=-1):
        (is_unchanged,) = offers
        assert is_unchanged()
        path.write_bytes(path.read_bytes() + b"\0")
        assert not is_unchanged()


@pytest.mark.skipif(len(CPUS) == 1, reason="one CPU has one thread")
def test_each_thread_of_a_second_session_has_its_own_cpu_while_it_computes(path: Path) -> None:
    before = set(thread_ids())
    session = SessionOpener(path, threads=1, gpu=Gpu()).open("cpu", threads=len(CPUS))
    workers = set(thread_ids()) - before
    caller = threading.get_native_id()
    seen: set[frozenset[int]] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            seen.add(frozenset(os.sched_getaffinity(caller)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        until(lambda: bool(session.run(None, {"image": np.zeros((64, 28, 28), np.uint8)})) and len(seen) > 1)
    finally:
        is_over.set()
        watcher.join()
    (own,) = seen - {frozenset(CPUS)}
    assert sorted([*own, *(cpu for worker in workers for cpu in os.sched_getaffinity(worker))]) == CPUS
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        session.run(None, {"image": np.zeros((1, 27, 28), np.uint8)})
    assert sorted(os.sched_getaffinity(caller)) == CPUS


def thread_ids() -> list[int]:
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]


def test_the_threads_of_a_second_session_leave_the_processors_to_others_between_batches() -> None:
    """The test starts another process, because the sessions' threads do not spin in the process that runs the tests."""
    code = f"""
import time
from pathlib import Path
import numpy as np
from hangtag.serving.server.runtime.inference_session import SessionOpener
from hangtag.serving.server.runtime.inference_session import Gpu
session = SessionOpener(Path({str(shipped.latest("cnn"))!r}), threads=1, gpu=Gpu()).open("cpu", threads=2)
for _ in range(3):
    session.run(None, {{"image": np.zeros((64, 28, 28), np.uint8)}})
before = time.process_time()
time.sleep(0.01)
print(time.process_time() - before)
"""
    assert float(python(code).stdout) < 0.003
