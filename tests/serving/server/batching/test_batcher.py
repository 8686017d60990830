"""The batcher by examples: delays, many threads, and its end.

test_batcher_properties has all that is true in any order.
"""

import pytest

from tests.kit.parts import Clock, KeptCall, batcher, new_call, put


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
