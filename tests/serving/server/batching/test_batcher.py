import threading
from collections.abc import Iterator

import pytest

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, QueuedRequest
from hangtag.serving.server.errors import CancelledError, DeadlineError, QueueFullError, UnavailableError
from hangtag.serving.server.telemetry.model_statistics import Timings
from tests.serving.server.parts import Caller, Clock, batcher, new_request

ANSWER = InferenceResult({}, Timings(0, 0, 0, 0, 1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(queue: Batcher, *requests: QueuedRequest) -> list[QueuedRequest]:
    for one in requests:
        queue.put(one)
    return list(requests)


def test_a_lone_request_is_taken_at_once(clock: Clock) -> None:
    queue = batcher(clock)
    assert queue.take(wait=False) == []
    requests = put(queue, new_request())
    assert len(queue) == 1
    assert queue.take() == requests
    assert len(queue) == 0


def test_requests_that_gather_while_all_instances_compute_are_taken_together(clock: Clock) -> None:
    queue = batcher(clock, size=4)
    requests = put(queue, *(new_request() for _ in range(6)))
    assert queue.take() == requests[:4]
    assert queue.take() == requests[4:]


def test_a_batch_counts_samples_and_never_splits_a_request(clock: Clock) -> None:
    queue = batcher(clock, size=8)
    requests = put(queue, *(new_request(samples) for samples in (3, 4, 2, 8, 1)))
    assert [queue.take(wait=False) for _ in range(5)] == [requests[:2], requests[2:3], requests[3:4], requests[4:], []]


def test_batch_keys_are_never_mixed_and_keep_their_order(clock: Clock) -> None:
    queue = batcher(clock, size=3)
    a1, b1, a2, b2, a3, a4 = put(queue, *(new_request(batch_key=batch_key) for batch_key in "abab" + "aa"))
    assert queue.take() == [a1, a2, a3]
    assert queue.take() == [b1, b2]
    assert queue.take() == [a4]


def test_a_request_that_does_not_fit_keeps_its_place_behind_other_batch_keys(clock: Clock) -> None:
    queue = batcher(clock, size=4)
    a1, b1, a2, a3 = put(
        queue,
        new_request(2, batch_key="a"),
        new_request(batch_key="b"),
        new_request(3, batch_key="a"),
        new_request(1, batch_key="a"),
    )
    assert [queue.take(wait=False) for _ in range(3)] == [[a1], [b1], [a2, a3]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(clock: Clock) -> None:
    queue = batcher(clock, queue=2)
    first, _ = put(queue, new_request(), new_request())
    refused = Caller()
    with pytest.raises(QueueFullError, match="2 requests are waiting, as many as the queue holds"):
        queue.put(new_request(on_complete=refused))
    assert refused.outcomes == []
    queue.cancel(first)
    put(queue, new_request())
    assert len(queue) == 2


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_cancelled_request_costs_nothing_and_its_neighbours_are_taken(clock: Clock, victim: int) -> None:
    queue = batcher(clock)
    callers = [Caller() for _ in range(3)]
    requests = put(queue, *(new_request(on_complete=caller) for caller in callers))
    queue.cancel(requests[victim])
    assert isinstance(callers.pop(victim).outcome, CancelledError)
    del requests[victim]
    assert len(queue) == 2
    assert queue.take() == requests
    assert [caller.outcomes for caller in callers] == [[], []]


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_late_request_is_dropped_before_it_is_computed(clock: Clock, victim: int) -> None:
    queue = batcher(clock)
    callers = [Caller() for _ in range(3)]
    deadlines = [clock.now + (1 if index == victim else 10) for index in range(3)]
    requests = put(
        queue, *(new_request(on_complete=caller, deadline=at) for caller, at in zip(callers, deadlines, strict=True))
    )
    clock.now += 1
    del requests[victim]
    assert queue.take() == requests
    assert isinstance(callers.pop(victim).outcome, DeadlineError)
    assert [caller.outcomes for caller in callers] == [[], []]
    assert len(queue) == 0


def test_late_requests_form_no_batch_and_take_no_room_in_one(clock: Clock) -> None:
    queue = batcher(clock, size=2)
    late = [Caller(), Caller()]
    put(queue, *(new_request(2, caller, deadline=clock.now) for caller in late))
    in_time = put(queue, new_request(), new_request())
    assert queue.take() == in_time
    assert all(isinstance(caller.outcome, DeadlineError) for caller in late)
    put(queue, new_request(deadline=clock.now))
    assert queue.take(wait=False) == []


def test_a_late_callback_that_raises_loses_no_other_request(clock: Clock) -> None:
    def broken(_outcome: object) -> None:
        raise RuntimeError("the caller's own")

    queue = batcher(clock)
    put(queue, new_request(on_complete=broken, deadline=clock.now))
    others = put(queue, new_request())
    assert queue.take() == others


def test_cancelling_a_request_that_was_taken_or_answered_is_harmless(clock: Clock) -> None:
    queue = batcher(clock)
    taken, answered = Caller(), Caller()
    requests = put(queue, new_request(on_complete=taken), new_request(on_complete=answered))
    assert queue.take() == requests
    queue.cancel(requests[0])
    assert not requests[0].complete(ANSWER)
    assert requests[1].complete(ANSWER)
    queue.cancel(requests[1])
    assert isinstance(taken.outcome, CancelledError)
    assert answered.outcome is ANSWER
    assert len(queue) == 0


def test_a_request_cancelled_before_it_was_queued_is_never_computed(clock: Clock) -> None:
    queue = batcher(clock)
    gone = new_request()
    queue.cancel(gone)
    queue.put(gone)
    assert queue.take(wait=False) == []
    assert len(queue) == 0


def test_the_delay_counts_from_the_oldest_request(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = put(queue, new_request())
    clock.now += 4
    second = put(queue, new_request())
    assert queue.take(wait=False) == []
    clock.now += 1
    assert queue.take() == first + second


def test_a_full_batch_waits_for_no_delay_and_the_rest_keeps_its_own(clock: Clock) -> None:
    queue = batcher(clock, size=4, delay=5)
    requests = put(queue, new_request(2), new_request(2), new_request(1))
    assert queue.take() == requests[:2]
    assert queue.take(wait=False) == []
    clock.now += 5
    assert queue.take() == requests[2:]


def test_the_delay_ends_without_another_request() -> None:
    queue = Batcher(max_batch_size=4, max_queue_size=4, instances=9, max_queue_delay=0.02)
    requests = put(queue, new_request())
    assert queue.take(wait=False) == []
    assert queue.take() == requests


def test_when_the_oldest_is_cancelled_the_delay_counts_from_the_next(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = new_request()
    put(queue, first)
    clock.now += 4
    second = put(queue, new_request())
    queue.cancel(first)
    clock.now += 1
    assert queue.take(wait=False) == []
    clock.now += 4
    assert queue.take() == second


def test_close_refuses_new_requests_and_drains_the_queue_without_delay(clock: Clock) -> None:
    queue = batcher(clock, size=2, delay=5)
    requests = put(queue, *(new_request() for _ in range(3)))
    queue.close()
    with pytest.raises(UnavailableError, match="the server is stopping"):
        queue.put(new_request())
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [requests[:2], requests[2:], [], []]


def batches_until_closed(queue: Batcher) -> Iterator[list[QueuedRequest]]:
    while batch := queue.take():
        yield batch


def test_close_wakes_every_thread_that_waits(clock: Clock) -> None:
    queue = batcher(clock)
    takers = [threading.Thread(target=lambda: list(batches_until_closed(queue))) for _ in range(4)]
    for taker in takers:
        taker.start()
    queue.close()
    for taker in takers:
        taker.join(30)
        assert not taker.is_alive()


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


def test_a_taker_that_waits_is_woken_by_a_request(clock: Clock) -> None:
    queue = batcher(clock)
    taken: list[list[QueuedRequest]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    requests = put(queue, new_request())
    taker.join(30)
    assert taken == [requests]


def test_a_batch_wakes_one_thread_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that finishes a batch takes the next one, so no other thread is woken."""
    queue = Batcher(max_batch_size=4, max_queue_size=100, instances=1)
    woken: list[int] = []
    monkeypatch.setattr(queue._changed, "notify", lambda n=1: woken.append(n))
    put(queue, new_request())
    computed = queue.take()
    assert woken == [1]
    for _ in range(5):
        put(queue, *(new_request() for _ in range(4)))
        queue.finish(computed)
        computed = queue.take()
        assert len(computed) == 4
    assert woken == [1]


def test_a_request_that_came_while_all_instances_computed_is_taken_when_its_delay_ends() -> None:
    queue = Batcher(max_batch_size=2, max_queue_size=10, instances=1, max_queue_delay=0.1)
    put(queue, new_request(2))
    computed = queue.take(wait=False)  # by a thread that does not come back to wait
    taken: list[list[QueuedRequest]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taker.start()
    while not queue._changed._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    requests = put(queue, new_request())
    queue.finish(computed)
    taker.join(30)
    assert taken == [requests]
