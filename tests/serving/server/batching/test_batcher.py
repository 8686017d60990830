"""The batcher by examples: callbacks, cancellation, delay, and work after a batch.

test_batcher_properties has all that is true in any order; real servers show that requests wake threads.
"""

import threading

import pytest

from hangtag.serving.server.batching.after_batch import after_batch, completing_batch
from tests.kit.parts import Clock, batcher, new_request, put


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
