"""The threads of the native transport with real models, driven by events that a test sends instead of the library."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.native import compute_threads
from hangtag.serving.server.transport.native.compute_threads import ComputeThreads, Event
from tests.serving.server.parts import FakeRuntime, served
from tests.serving.server.transport.native.events import TIMEOUT, Held, dispatch, running

CONFIG = ServerConfig(max_batch_size=2, instances=1)


def test_a_free_thread_computes_what_it_receives_itself() -> None:
    model = served(FakeRuntime(), CONFIG)
    with running(1, model) as (_, library):
        assert [library.send(model, value).value for value in (1, 2, 3)] == [2, 4, 6]
    assert {name for name, wait_ms in library.asked if wait_ms is None} == {"native-0"}


def test_a_thread_that_finishes_takes_what_has_gathered_and_no_other_is_woken() -> None:
    held = Held(ServerConfig(max_batch_size=2, instances=2))
    with running(2, held.model) as (_, library):
        answers = [library.send(held.model, value) for value in range(2)]
        for _ in answers:
            held.wait_until_computing()
        answers += [library.send(held.model, value) for value in range(2, 6)]
        held.go.release(6)
        assert [answer.value for answer in answers] == [0, 2, 4, 6, 8, 10]
    assert set(held.threads) == {"native-0", "native-1"}


def test_while_all_compute_the_stand_by_receives_and_the_models_own_threads_compute() -> None:
    held, other = Held(CONFIG), served(FakeRuntime(), CONFIG)
    with running(1, held.model, other) as (_, library):
        first = library.send(held.model, 1)
        held.wait_until_computing()
        for value in (2, 3):
            assert library.send(other, value).value == 2 * value
        held.go.release()
        assert first.value == 2
        assert library.send(other, 4).value == 8
    assert "native-stand-by" in {name for name, _ in library.asked}
    assert held.threads == ["native-0"]


def test_a_call_that_the_busy_thread_had_queued_is_computed_by_the_models_own() -> None:
    """Two events in one sweep: the thread computes the first one's batch, and the second one's model is another."""
    held, other = Held(CONFIG), served(FakeRuntime(), CONFIG)
    with running(1, held.model, other) as (_, library):
        first, second = library.send_together((held.model, 1), (other, 2))
        held.wait_until_computing()
        assert second.value == 4
        held.go.release()
        assert first.value == 2


def test_a_batch_that_is_held_back_is_due_when_its_time_is_over() -> None:
    model = served(FakeRuntime(), ServerConfig(max_batch_size=2, instances=1, max_queue_delay_microseconds=20_000))
    with running(1, model) as (_, library):
        assert library.send(model, 1).value == 2
        waits = [wait_ms for _, wait_ms in library.asked if wait_ms]
        assert waits
        assert max(waits) <= 20


def test_a_stand_by_that_goes_to_rest_while_the_server_stops_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = ComputeThreads._rest
    stops: list[threading.Thread] = []

    def rest_after_join_has_begun(threads: ComputeThreads) -> None:
        if not stops:
            stops.append(threading.Thread(target=threads.join, daemon=True))
            stops[0].start()
            assert threads._closed.wait(TIMEOUT)
            threads._active.set()  # as join does next
        rest(threads)

    monkeypatch.setattr(ComputeThreads, "_rest", rest_after_join_has_begun)
    model = served(FakeRuntime(), CONFIG)
    with running(1, model) as (threads, library):
        assert library.send(model, 1).value == 2
        stand_by = threads._threads[-1]
        stand_by.join(TIMEOUT)
        assert not stand_by.is_alive()


def test_a_quiet_server_wakes_no_thread() -> None:
    model = served(FakeRuntime(), CONFIG)
    with running(2, model) as (threads, library):
        assert library.send(model, 1).value == 2
        while threads._active.is_set():  # the stand-by looks once more, and then rests
            threading.Event().wait(0.001)
        ids = [thread.native_id for thread in (*threads._threads, *model._instances)]
        before, asked = [_wake_ups(number) for number in ids], len(library.asked)
        threading.Event().wait(20 * compute_threads.STAND_BY_SECONDS)
        assert [_wake_ups(number) for number in ids] == before
        assert len(library.asked) == asked
        assert library.send(model, 2).value == 4


def _wake_ups(thread: int | None) -> int:
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))


def test_bugs_of_ours_end_neither_a_thread_nor_other_calls() -> None:
    model = served(FakeRuntime(), CONFIG)
    faults = ["dispatch", "receive", "execute"]
    execute = model.execute

    def fail_once(place: str) -> None:
        if place in faults:
            faults.remove(place)
            raise RuntimeError(place)

    def executing(batch: Any) -> None:
        execute(batch)
        fail_once("execute")

    def dispatching(event: Event, wake: bool) -> Sequence[ServedModel]:
        if event[1] == 0:
            fail_once("dispatch")
        return dispatch(event, wake)

    model.execute = executing  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs, running(1, model, with_dispatch=dispatching) as (threads, library):
        receive = threads._receive

        def receiving(most: int, wait_ms: int | None) -> Sequence[Event] | None:
            fail_once("receive")
            return receive(most, wait_ms)

        threads._receive = receiving
        library.send(model, 0)  # lost, as a call may be that meets a bug
        assert [library.send(model, value).value for value in range(1, 6)] == [2, 4, 6, 8, 10]
        assert all(thread.is_alive() for thread in threads._threads)
    assert faults == []
    assert sorted(line["event"] for line in logs if line["log_level"] == "error") == [
        *("an event was lost", "computing a batch failed", "receiving calls failed")
    ]


def test_what_gathered_behind_a_bug_is_still_computed() -> None:
    held = Held(CONFIG)
    execute, computed = held.model.execute, threading.Event()

    def broken(batch: Any) -> None:
        execute(batch)
        if not computed.is_set():
            computed.set()
            raise RuntimeError("a bug")

    held.model.execute = broken  # type: ignore[method-assign]
    with structlog.testing.capture_logs(), running(1, held.model) as (_, library):
        answers = [library.send(held.model, 1)]
        held.wait_until_computing()
        answers.append(library.send(held.model, 2))
        while not len(held.model.batcher):
            threading.Event().wait(0.001)
        held.go.release(2)
        assert [answer.value for answer in answers] == [2, 4]


@pytest.mark.parametrize("count", [1, 4])
def test_all_threads_end_when_the_library_is_closed(count: int) -> None:
    with running(count) as (threads, library):
        assert library.waiting.acquire(timeout=TIMEOUT)
    assert not any(thread.is_alive() for thread in threads._threads)
