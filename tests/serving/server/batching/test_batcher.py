"""The batcher by examples: delays, the threads that it wakes, and its end.

test_batcher_properties has all that is true in any order.
"""

import threading
from collections.abc import Iterator

import pytest

from hangtag.serving.server.batching.after_batch import after_batch, completing_batch
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, QueuedRequest
from hangtag.serving.server.telemetry.model_statistics import Timings
from tests.kit.parts import Caller, Clock, batcher, new_request, put
from tests.kit.waiting import TIMEOUT, until


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_late_callback_that_raises_loses_no_other_request(clock: Clock) -> None:
    def broken(_outcome: object) -> None:
        raise RuntimeError("the caller's own")

    queue = batcher(clock)
    put(queue, new_request(on_complete=broken, deadline=clock.now))
    others = put(queue, new_request())
    assert queue.take() == others


def test_a_request_cancelled_before_it_was_queued_is_never_computed(clock: Clock) -> None:
    queue = batcher(clock)
    gone = new_request()
    queue.cancel(gone)
    queue.put(gone)
    assert queue.take(wait=False) == []
    assert len(queue) == 0


def test_a_full_batch_waits_for_no_delay_and_the_rest_keeps_its_own(clock: Clock) -> None:
    queue = batcher(clock, size=4, delay=5)
    requests = put(queue, new_request(2), new_request(2), new_request(1))
    assert queue.take() == requests[:2]
    assert queue.take(wait=False) == []
    clock.now += 5
    assert queue.take() == requests[2:]


def test_the_delay_counts_from_the_oldest_request_that_is_not_cancelled(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = new_request()
    put(queue, first)
    clock.now += 2
    others = put(queue, new_request())
    clock.now += 2
    others += put(queue, new_request())
    queue.cancel(first)
    clock.now += 2
    assert queue.take(wait=False) == []
    clock.now += 1
    assert queue.take() == others


def test_work_after_a_batch_waits_for_its_last_request_and_not_for_another_threads_batch() -> None:
    done: list[str] = []

    def call() -> None:
        after_batch(lambda: done.append("from a call"))

    with completing_batch():
        for number in range(2):
            after_batch(call)
            done.append(f"answer {number}")
        other = threading.Thread(target=after_batch, args=[lambda: done.append("another thread's")])
        other.start()
        other.join()
    after_batch(lambda: done.append("outside"))
    assert done == ["answer 0", "answer 1", "another thread's", "from a call", "outside"]


def batches_until_closed(queue: Batcher) -> Iterator[list[QueuedRequest]]:
    while batch := queue.take():
        yield batch


def test_several_takers_share_the_work_and_each_request_is_answered_once() -> None:
    queue = Batcher(max_batch_size=3, max_queue_size=10_000, instances=4)
    callers = [Caller() for _ in range(3000)]
    sizes: list[int] = []

    def compute() -> None:
        for batch in batches_until_closed(queue):
            sizes.append(len(batch))
            for one in batch:
                one.complete(InferenceResult({}, Timings(id(one), 0, 0, 0, 1)))
            queue.finish(batch)

    requests = [new_request(on_complete=caller) for caller in callers]
    takers = [threading.Thread(target=compute) for _ in range(4)]
    putters = [threading.Thread(target=put, args=(queue, *requests[part::3])) for part in range(3)]
    for thread in (*takers, *putters):
        thread.start()
    for number in range(0, len(requests), 7):
        queue.cancel(requests[number])
    for thread in putters:
        thread.join(60)
    queue.close()
    for thread in takers:
        thread.join(60)
        assert not thread.is_alive()
    assert len(queue) == 0
    assert max(sizes) <= 3
    for number, (one, caller) in enumerate(zip(requests, callers, strict=True)):
        if number % 7:
            assert caller.answer.timings.queue_ns == id(one)
        else:
            assert len(caller.outcomes) == 1


def test_a_request_wakes_a_thread_that_waits_and_close_wakes_them_all(clock: Clock) -> None:
    queue = batcher(clock)
    taken: list[list[QueuedRequest]] = []
    takers = [threading.Thread(target=lambda: taken.extend(batches_until_closed(queue))) for _ in range(4)]
    for taker in takers:
        taker.start()
    requests = put(queue, new_request())
    until(lambda: taken)
    queue.close()
    for taker in takers:
        taker.join(30)
        assert not taker.is_alive()
    assert taken == [requests]


class Watched(threading.Condition):
    """Counts the threads that it wakes, and knows whether one has begun to wait."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__(lock)
        self.woken = 0
        self.awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited.set()
        return super().wait(timeout)

    def notify(self, n: int = 1) -> None:
        self.woken += n
        super().notify(n)


def watched(size: int, delay: float = 0.0) -> tuple[Batcher, Watched]:
    """A batcher with one instance, and its condition."""
    conditions: list[Watched] = []

    def condition(lock: threading.Lock) -> Watched:
        conditions.append(Watched(lock))
        return conditions[0]

    queue = Batcher(max_batch_size=size, max_queue_size=100, instances=1, max_queue_delay=delay, condition=condition)
    return queue, conditions[0]


def test_a_batch_wakes_one_thread_at_most() -> None:
    """The thread that finishes a batch takes the next one, so no other thread is woken."""
    queue, condition = watched(4)
    put(queue, new_request())
    computed = queue.take()
    assert condition.woken == 1
    for _ in range(5):
        put(queue, *(new_request() for _ in range(4)))
        queue.finish(computed)
        computed = queue.take()
        assert len(computed) == 4
    assert condition.woken == 1


def test_a_request_that_came_while_all_instances_computed_is_taken_when_its_delay_ends() -> None:
    queue, condition = watched(2, delay=0.1)
    put(queue, new_request(2))
    computed = queue.take(wait=False)  # by a thread that does not come back to wait
    taken: list[list[QueuedRequest]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taker.start()
    assert condition.awaited.wait(TIMEOUT)
    requests = put(queue, new_request())
    queue.finish(computed)
    taker.join(30)
    assert taken == [requests]
