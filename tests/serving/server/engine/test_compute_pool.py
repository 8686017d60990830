"""The pool of compute threads: which threads are woken, started and ended, and which thread receives calls.

A server's behaviour with this pool is tested in test_native, in test_pressure, and in engine/routes."""

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from unittest.mock import Mock

import pytest
import structlog.testing

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.queue.batcher import Batcher
from hangtag.serving.server.queue.call import Call
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.parts import KeptCall
from tests.kit.waiting import TIMEOUT, pass_time, until


class Model:
    """A model that computes a batch only when a test allows it, and records which thread computed the batch."""

    def __init__(self) -> None:
        self.batcher = Batcher(max_batch_size=4, max_queue_size=100, instances=1)
        self.begun: list[list[Call]] = []
        self.alone: list[bool] = []
        self.threads: set[int] = set()
        self.may_end = threading.Event()
        self.may_end.set()
        self.answer: Callable[[], None] = lambda: None

    def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
        self.threads.add(threading.get_ident())
        self.alone.append(alone)
        self.begun.append(batch)
        assert self.may_end.wait(TIMEOUT)
        self.batcher.finish(batch)
        return self.answer

    def hold(self) -> None:
        self.may_end.clear()


class Source:
    """A source from which a thread of the pool receives the calls that a test sends."""

    def __init__(self, pool: ComputePool) -> None:
        self._pool = pool
        self._sent: SimpleQueue[tuple[Model, ...]] = SimpleQueue()
        self.threads: set[int] = set()
        self.during: Callable[[], object] = lambda: None  # receive() calls this after it has offered calls to the pool

    def send(self, *models: Model) -> None:
        """Send one call for each model. The pool receives all of them together. If there are none, the source ends."""
        self._sent.put(models)

    def receive(self, milliseconds: int | None) -> bool:
        self.threads.add(threading.get_ident())
        try:
            models = self._sent.get(timeout=TIMEOUT if milliseconds is None else milliseconds / 1e3)
        except Empty:
            return True
        for model in models:
            offer(self._pool, model)
        self.during()
        return bool(models)


def offer(pool: ComputePool, model: Model) -> None:
    model.batcher.put(KeptCall())
    pool.offer(model)


@pytest.fixture
def pool() -> Iterator[ComputePool]:
    pool = ComputePool(2)
    yield pool
    pool.close()


@pytest.fixture
def source(pool: ComputePool) -> Iterator[Source]:
    source = Source(pool)
    pool.receive_from(source.receive)
    yield source
    source.send()


def test_a_batch_is_no_longer_computed_when_its_caller_has_the_answer(pool: ComputePool) -> None:
    """Therefore, the processors are free when the only caller sends its next call."""
    model, again, held = Model(), Model(), threading.Event()

    def answer() -> None:
        offer(pool, again)
        assert held.wait(TIMEOUT)

    model.answer = answer
    offer(pool, model)
    until(lambda: again.alone == [True])
    held.set()


def test_the_pool_has_a_thread_for_each_instance_of_a_model(pool: ComputePool, tmp_path: Path) -> None:
    """With fewer threads than the model has instances, the model's batches would wait for a free thread."""
    path = onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    model = ServedModel(ModelFile("gather", 1, path), Runtime(path, provider="cpu"), ServerConfig(instances=4))
    model.start(pool)
    assert pool.threads == 4


def test_a_lone_call_is_received_and_computed_by_one_thread(pool: ComputePool, source: Source) -> None:
    model = Model()
    for number in range(1, 20):
        source.send(model)
        until(lambda number=number: len(model.begun) == number)  # type: ignore[misc]
    assert model.threads <= source.threads
    assert len(source.threads) <= 2


def compute_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "compute"}


def test_further_threads_end_when_there_is_no_more_work(pool: ComputePool) -> None:
    slow = [Model() for _ in range(5)]
    before = compute_threads()  # servers of other tests have such threads too
    for model in slow:
        model.hold()
        offer(pool, model)
    until(lambda: all(model.begun for model in slow))
    started = compute_threads() - before
    assert len(started) == 5
    for model in slow:
        model.may_end.set()
    until(lambda: sum(thread.is_alive() for thread in started) == 2)


def compute_together(source: Source, count: int, seconds: float = 0.0) -> None:
    models = [Model() for _ in range(count)]
    for model in models:
        model.hold()
        source.send(model)
        until(lambda model=model: model.begun)  # type: ignore[misc]
    pass_time(seconds)
    for model in models:
        model.may_end.set()
    until(lambda: not any(model.batcher.computing for model in models))


def test_calls_are_received_although_a_thread_was_just_woken_in_vain(pool: ComputePool, source: Source) -> None:
    """A thread receives a call, and a second thread is woken to compute it, but the first thread computes it sooner."""
    compute_together(source, 3)  # starts a further thread
    slow, other, last = Model(), Model(), Model()
    for model in (slow, other):
        model.hold()
    source.send(slow)
    until(lambda: slow.begun)
    source.during = lambda: (pass_time(0.05), pool.wake())  # type: ignore[func-returns-value]
    source.send(other)
    until(lambda: other.begun)
    source.send(last)
    until(lambda: last.begun)
    slow.may_end.set()
    other.may_end.set()


def test_a_thread_that_cannot_start_is_reported_once(
    pool: ComputePool, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_together(source, 3)
    with structlog.testing.capture_logs() as log, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
        compute_together(source, 3, seconds=0.1)
    assert len(log) <= 1


def test_one_thread_receives_and_computes_again_after_slow_batches() -> None:
    pool, brief, order = ComputePool(1), Model(), list[int]()
    source = Source(pool)
    brief.answer = lambda: order.append(threading.get_ident()) or pass_time(0.001)  # type: ignore[func-returns-value]
    pool.receive_from(source.receive)
    compute_together(source, 2)
    for number in range(1, 61):
        source.send(brief)
        until(lambda number=number: len(order) == number)  # type: ignore[misc]
    source.send()
    pool.close()
    assert sum(one != next_one for one, next_one in pairwise(order)) < 30


def test_work_after_a_batch_is_done_once_when_it_is_answered(pool: ComputePool) -> None:
    model, done = Model(), []

    def after() -> None:
        done.append(model.batcher.computing)

    model.hold()
    offer(pool, model)
    until(lambda: model.begun)
    for _ in range(3):
        pool.after_batch(after)
    model.may_end.set()
    until(lambda: done == [0])


def test_a_fault_of_a_model_ends_no_thread(pool: ComputePool) -> None:
    class Broken(Model):
        def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
            super().compute(batch, alone=alone)
            raise RuntimeError("a bug")

    broken, sound = Broken(), Model()
    for _ in range(3):
        offer(pool, broken)
        until(lambda: not broken.batcher.waiting)
    offer(pool, sound)
    until(lambda: sound.begun)
