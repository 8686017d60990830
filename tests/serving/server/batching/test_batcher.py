"""The batcher by examples: delays, many threads, and its end.

test_batcher_properties has all that is true in any order.
"""

import threading

import pytest

from hangtag.serving.server.batching.after_batch import after_batch, completing_batch
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.call import InferenceResult
from hangtag.serving.server.telemetry.model_statistics import Timings
from tests.kit.parts import Clock, KeptCall, batcher, new_call, put
from tests.kit.waiting import until


@pytest.fixture
def clock() -> Clock:
    return Clock()


class BrokenCall(KeptCall):
    """A call whose transport raises."""

    def fail(self, error: Exception) -> None:
        raise RuntimeError("the transport's own")


def test_a_late_call_whose_transport_raises_loses_no_other_one(clock: Clock) -> None:
    queue = batcher(clock)
    put(queue, BrokenCall(deadline=clock.now))
    others = put(queue, new_call())
    assert queue.take() == others


def test_a_full_batch_waits_for_no_delay_and_the_rest_keeps_its_own(clock: Clock) -> None:
    queue = batcher(clock, size=4, delay=5)
    requests = put(queue, new_call(2), new_call(2), new_call(1))
    assert queue.take() == requests[:2]
    assert queue.take() == []
    clock.now += 5
    assert queue.take() == requests[2:]


def test_the_delay_counts_from_the_oldest_request_that_is_not_cancelled(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = new_call()
    put(queue, first)
    clock.now += 2
    others = put(queue, new_call())
    clock.now += 2
    others += put(queue, new_call())
    queue.cancel(first)
    clock.now += 2
    assert queue.take() == []
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


def test_several_takers_share_the_work_and_each_call_has_one_outcome() -> None:
    queue = Batcher(max_batch_size=3, max_queue_size=10_000, instances=4)
    calls = [new_call() for _ in range(3000)]
    sizes: list[int] = []
    ended = threading.Event()

    def compute() -> None:
        while (batch := queue.take()) or not ended.is_set():
            if batch:
                sizes.append(len(batch))
                for one in queue.finish(batch):
                    one.end(InferenceResult({}, Timings(id(one), 0, 0, 0, 1)))

    takers = [threading.Thread(target=compute, daemon=True) for _ in range(4)]
    putters = [threading.Thread(target=put, args=(queue, *calls[part::3])) for part in range(3)]
    for thread in (*takers, *putters):
        thread.start()
    for number in range(0, len(calls), 7):
        until(lambda number=number: calls[number].queue is not None)  # type: ignore[misc]
        calls[number].cancel()
    for thread in putters:
        thread.join(60)
    queue.close()
    queue.join()
    ended.set()
    for thread in takers:
        thread.join(60)
        assert not thread.is_alive()
    assert len(queue) == 0
    assert max(sizes) <= 3
    for number, one in enumerate(calls):
        if number % 7:
            assert isinstance(one.outcome, InferenceResult)
            assert one.outcome.timings.queue_ns == id(one)
        else:
            assert len(one.outcomes) == 1
