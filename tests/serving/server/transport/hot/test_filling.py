"""How long a batch is worth filling, on real queues."""

import gc

import pytest

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.transport.hot.filling import _ENOUGH_SECONDS, _REMEMBERED, Filling
from tests.serving.server.parts import Clock, batcher, new_request

MAX_BATCH_SIZE = 16
ENOUGH = 4  # a quarter of it


def queue_of(samples: int) -> Batcher:
    queue = batcher(Clock(), size=MAX_BATCH_SIZE, instances=2)
    put(queue, samples)
    return queue


def put(queue: Batcher, samples: int) -> None:
    for _ in range(samples):
        queue.put(new_request())


def test_a_quarter_of_the_largest_batch_is_enough() -> None:
    queue, filling = queue_of(MAX_BATCH_SIZE), Filling()
    assert not filling.is_worth_waiting([queue])
    queue.finish(queue.take())
    put(queue, ENOUGH - 1)
    assert filling.is_worth_waiting([queue])  # there were more
    put(queue, 1)
    assert not filling.is_worth_waiting([queue])


@pytest.mark.parametrize(("seconds", "worth"), [(0.1, True), (0.9, True), (1.1, False)])
def test_a_batch_that_takes_long_itself_is_enough(seconds: float, worth: bool) -> None:
    """seconds: of _ENOUGH_SECONDS, for one sample."""
    queue, filling = queue_of(2), Filling()
    filling.is_worth_waiting([queue])
    queue.finish(queue.take(), 2 * seconds * _ENOUGH_SECONDS)
    put(queue, 1)
    assert filling.is_worth_waiting([queue]) is worth


def test_when_as_many_are_in_work_as_ever_were_nobody_else_will_come() -> None:
    queue, filling = queue_of(1), Filling()
    assert not filling.is_worth_waiting([queue])  # the first
    computed = queue.take()
    put(queue, 2)
    assert not filling.is_worth_waiting([queue])  # three now
    queue.finish(computed)
    assert filling.is_worth_waiting([queue])  # one has its answer, and may ask again
    put(queue, 1)
    assert not filling.is_worth_waiting([queue])


def test_callers_who_went_away_are_forgotten() -> None:
    queue, filling = queue_of(3), Filling()
    filling.is_worth_waiting([queue])
    queue.finish(queue.take())
    put(queue, 1)
    looks = [filling.is_worth_waiting([queue]) for _ in range(2 * _REMEMBERED)]
    assert looks[:_REMEMBERED] == [True] * _REMEMBERED
    assert not looks[-1]


def test_one_queue_that_has_enough_is_enough() -> None:
    full, empty, filling = queue_of(ENOUGH), queue_of(2), Filling()
    filling.is_worth_waiting([empty])
    empty.finish(empty.take())
    put(empty, 1)
    assert filling.is_worth_waiting([empty])
    assert not filling.is_worth_waiting([empty, full])


def test_a_queue_that_is_gone_is_not_remembered() -> None:
    filling = Filling()
    filling.is_worth_waiting([queue_of(1)])
    gc.collect()
    assert len(filling._peaks) == 0
