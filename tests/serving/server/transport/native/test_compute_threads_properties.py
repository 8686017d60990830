"""Whatever calls come, in whatever order, the threads of the native transport leave none of them waiting."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Cancel
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.native.compute_threads import ComputeThreads, Event
from tests.kit.waiting import TIMEOUT
from tests.serving.server.parts import Caller, FakeRuntime, rows, served

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
    cancels: dict[int, Cancel] = {}

    def dispatch_or_cancel(event: Event, wake: bool) -> Sequence[ServedModel]:
        model, value, answer = event
        if value == CANCELLED:
            cancel = cancels.get(id(answer))
            if cancel is not None:
                cancel()
            return []
        cancels[id(answer)] = model.submit(rows(value), {"x": "FP32"}, answer, wake=wake)
        return [model]

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


def dispatch(event: Event, wake: bool) -> Sequence[ServedModel]:
    model, value, answer = event
    model.submit(rows(value), {"x": "FP32"}, answer, wake=wake)
    return [model]


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
