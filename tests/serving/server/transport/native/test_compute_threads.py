"""The threads of the native transport with real models, driven by events that a test sends instead of the library."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.native import compute_threads
from hangtag.serving.server.transport.native.compute_threads import ComputeThreads, Event
from tests.serving.server.parts import Caller, FakeRuntime, rows, served

TIMEOUT = 30.0
CANCELLED = -1


class Answer(Caller):
    """A caller that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._came = threading.Event()

    def __call__(self, outcome: Any) -> None:
        super().__call__(outcome)
        self._came.set()

    def wait(self) -> Any:
        assert self._came.wait(TIMEOUT), "left waiting"
        return self.outcome

    @property
    def value(self) -> float:
        self.wait()
        return float(self.answer.outputs["y"][0, 0])


class Library:
    """Stands for pygrpc-native: gives events to the threads, and keeps which thread asked and how long it waits."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[list[Event] | None] = queue.SimpleQueue()
        self.asked: list[tuple[str, int | None]] = []
        self.waiting = threading.Semaphore(0)  # released whenever a thread asks without a time limit

    def send(self, model: Any, value: float) -> Answer:
        (answer,) = self.send_together((model, value))
        return answer

    def send_together(self, *calls: tuple[Any, float]) -> list[Answer]:
        """Calls that one sweep receives."""
        answers = [Answer() for _ in calls]
        self._events.put([(*call, answer) for call, answer in zip(calls, answers, strict=True)])
        return answers

    def cancel(self, model: Any, answer: Answer) -> None:
        self._events.put([(model, CANCELLED, answer)])

    def receive(self, _: int, wait_ms: int | None) -> Sequence[Event] | None:
        self.asked.append((threading.current_thread().name, wait_ms))
        if wait_ms is None:
            self.waiting.release()
        try:
            events = self._events.get(timeout=None if wait_ms is None else wait_ms / 1e3)
        except queue.Empty:
            return []
        if events is None:
            self._events.put(None)  # for the other threads
        return events

    def close(self) -> None:
        self._events.put(None)


def dispatch(event: Event, wake: bool) -> ServedModel:
    model, value, answer = event
    model.submit(rows(value), {"x": "FP32"}, answer, wake=wake)
    served_model: ServedModel = model
    return served_model


class Held:
    """A model whose batches wait until they are let go, one by one."""

    def __init__(self, config: ServerConfig) -> None:
        runtime = FakeRuntime()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.threads: list[str] = []
        self.model = served(runtime, config)

        def compute(x: Any) -> Any:
            self.threads.append(threading.current_thread().name)
            self.begun.release()
            assert self.go.acquire(timeout=TIMEOUT)
            return {"y": x * 2}

        runtime.compute = compute

    def wait_until_computing(self) -> None:
        assert self.begun.acquire(timeout=TIMEOUT)


@contextmanager
def running(
    count: int, *models: ServedModel, with_dispatch: Any = dispatch
) -> Iterator[tuple[ComputeThreads, Library]]:
    """The threads at work; at the end all of them end."""
    library, threads = Library(), ComputeThreads(with_dispatch, count)
    for model in models:
        model.start()
    threads.start(library.receive)
    try:
        yield threads, library
    finally:
        for model in models:
            model.close()
        library.close()
        threads.join()


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

    def dispatching(event: Event, wake: bool) -> ServedModel:
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


_calls = st.tuples(
    st.sampled_from(["native", "native", "native", "stream"]),  # a stream submits from a thread of its own, and wakes
    st.integers(0, 1),  # the model
    st.sampled_from(["wait", "leave"]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(_calls, min_size=1, max_size=30),
    threads=st.integers(1, 3),
    instances=st.integers(1, 3),
    size=st.integers(1, 4),
    delay_us=st.sampled_from([0, 0, 3_000]),
    milliseconds=st.sampled_from([0.0, 0.0, 1.0, 8.0]),
)
def test_no_request_is_left_waiting(
    calls: list[tuple[str, int, str]], threads: int, instances: int, size: int, delay_us: int, milliseconds: float
) -> None:
    """Native threads, a model's own and the stand-by share the queues: each request completes once, with its answer."""
    config = ServerConfig(max_batch_size=size, instances=instances, max_queue_delay_microseconds=delay_us)
    models = []
    for _ in range(2):
        runtime = FakeRuntime()

        def compute(x: Any) -> Any:
            if milliseconds:
                threading.Event().wait(milliseconds / 1e3)
            return {"y": np.asarray(x) * 2}

        runtime.compute = compute
        models.append(served(runtime, config))
    requests: dict[int, Any] = {}

    def dispatch_or_cancel(event: Event, wake: bool) -> ServedModel | None:
        model, value, answer = event
        if value == CANCELLED:
            request = requests.get(id(answer))
            if request is not None:
                model.cancel(request)
            return None
        requests[id(answer)] = model.submit(rows(value), {"x": "FP32"}, answer, wake=wake)
        served_model: ServedModel = model
        return served_model

    with running(threads, *models, with_dispatch=dispatch_or_cancel) as (_, library):
        answers = []
        for value, (origin, number, then) in enumerate(calls):
            model = models[number]
            if origin == "native":
                answers.append((value, then, library.send(model, value)))
                if then == "leave":
                    library.cancel(model, answers[-1][2])
            else:
                answer = Answer()
                model.submit(rows(value), {"x": "FP32"}, answer)
                answers.append((value, "wait", answer))
        for value, then, answer in answers:
            outcome = answer.wait()
            assert then == "leave" or outcome.outputs["y"].tolist() == [[2 * value, 2 * value]]


@pytest.mark.parametrize("count", [1, 4])
def test_all_threads_end_when_the_library_is_closed(count: int) -> None:
    with running(count) as (threads, library):
        assert library.waiting.acquire(timeout=TIMEOUT)
    assert not any(thread.is_alive() for thread in threads._threads)
