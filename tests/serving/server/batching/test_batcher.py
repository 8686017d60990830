import threading
from collections.abc import Iterator

import pytest

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, QueuedRequest
from hangtag.serving.server.errors import CancelledError, DeadlineError, QueueFullError, UnavailableError
from hangtag.serving.server.telemetry.model_statistics import Timings
from tests.serving.server.parts import Caller, Clock, batcher, entry

ANSWER = InferenceResult({}, Timings(0, 0, 0, 0, 1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(queue: Batcher, *entries: QueuedRequest) -> list[QueuedRequest]:
    for one in entries:
        queue.put(one)
    return list(entries)


def test_a_lone_entry_is_taken_at_once(clock: Clock) -> None:
    queue = batcher(clock)
    assert queue.take(wait=False) == []
    entries = put(queue, entry())
    assert len(queue) == 1
    assert queue.take() == entries
    assert len(queue) == 0


def test_what_gathers_while_all_are_busy_is_taken_together(clock: Clock) -> None:
    queue = batcher(clock, size=4)
    entries = put(queue, *(entry() for _ in range(6)))
    assert queue.take() == entries[:4]
    assert queue.take() == entries[4:]


def test_a_batch_counts_samples_and_never_splits_a_request(clock: Clock) -> None:
    queue = batcher(clock, size=8)
    entries = put(queue, *(entry(samples) for samples in (3, 4, 2, 8, 1)))
    assert [queue.take(wait=False) for _ in range(5)] == [entries[:2], entries[2:3], entries[3:4], entries[4:], []]


def test_kinds_are_never_mixed_and_keep_their_order(clock: Clock) -> None:
    queue = batcher(clock, size=3)
    a1, b1, a2, b2, a3, a4 = put(queue, *(entry(batch_key=batch_key) for batch_key in "abab" + "aa"))
    assert queue.take() == [a1, a2, a3]
    assert queue.take() == [b1, b2]
    assert queue.take() == [a4]


def test_a_request_that_does_not_fit_keeps_its_place_behind_those_of_another_kind(clock: Clock) -> None:
    queue = batcher(clock, size=4)
    a1, b1, a2, a3 = put(
        queue, entry(2, batch_key="a"), entry(batch_key="b"), entry(3, batch_key="a"), entry(1, batch_key="a")
    )
    assert [queue.take(wait=False) for _ in range(3)] == [[a1], [b1], [a2, a3]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(clock: Clock) -> None:
    queue = batcher(clock, queue=2)
    first, _ = put(queue, entry(), entry())
    refused = Caller()
    with pytest.raises(QueueFullError, match="2 requests are waiting, as many as the queue holds"):
        queue.put(entry(on_complete=refused))
    assert refused.outcomes == []
    queue.cancel(first)
    put(queue, entry())
    assert len(queue) == 2


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_cancelled_entry_costs_nothing_and_its_neighbours_are_taken(clock: Clock, victim: int) -> None:
    queue = batcher(clock)
    callers = [Caller() for _ in range(3)]
    entries = put(queue, *(entry(on_complete=caller) for caller in callers))
    queue.cancel(entries[victim])
    assert isinstance(callers.pop(victim).outcome, CancelledError)
    del entries[victim]
    assert len(queue) == 2
    assert queue.take() == entries
    assert [caller.outcomes for caller in callers] == [[], []]


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_late_entry_is_dropped_before_it_is_computed(clock: Clock, victim: int) -> None:
    queue = batcher(clock)
    callers = [Caller() for _ in range(3)]
    deadlines = [clock.now + (1 if index == victim else 10) for index in range(3)]
    entries = put(
        queue, *(entry(on_complete=caller, deadline=at) for caller, at in zip(callers, deadlines, strict=True))
    )
    clock.now += 1
    del entries[victim]
    assert queue.take() == entries
    assert isinstance(callers.pop(victim).outcome, DeadlineError)
    assert [caller.outcomes for caller in callers] == [[], []]
    assert len(queue) == 0


def test_late_entries_make_no_batch_and_no_room_in_one(clock: Clock) -> None:
    queue = batcher(clock, size=2)
    late = [Caller(), Caller()]
    put(queue, *(entry(2, caller, deadline=clock.now) for caller in late))
    in_time = put(queue, entry(), entry())
    assert queue.take() == in_time
    assert all(isinstance(caller.outcome, DeadlineError) for caller in late)
    put(queue, entry(deadline=clock.now))
    assert queue.take(wait=False) == []


def test_a_late_callback_that_raises_loses_nobody(clock: Clock) -> None:
    def broken(_outcome: object) -> None:
        raise RuntimeError("the caller's own")

    queue = batcher(clock)
    put(queue, entry(on_complete=broken, deadline=clock.now))
    others = put(queue, entry())
    assert queue.take() == others


def test_cancelling_what_was_taken_or_answered_is_harmless(clock: Clock) -> None:
    queue = batcher(clock)
    taken, answered = Caller(), Caller()
    entries = put(queue, entry(on_complete=taken), entry(on_complete=answered))
    assert queue.take() == entries
    queue.cancel(entries[0])
    assert not entries[0].complete(ANSWER)
    assert entries[1].complete(ANSWER)
    queue.cancel(entries[1])
    assert isinstance(taken.outcome, CancelledError)
    assert answered.outcome is ANSWER
    assert len(queue) == 0


def test_an_entry_cancelled_before_it_was_queued_is_never_computed(clock: Clock) -> None:
    queue = batcher(clock)
    gone = entry()
    queue.cancel(gone)
    queue.put(gone)
    assert queue.take(wait=False) == []
    assert len(queue) == 0


def test_the_delay_counts_from_the_oldest_entry(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = put(queue, entry())
    clock.now += 4
    second = put(queue, entry())
    assert queue.take(wait=False) == []
    clock.now += 1
    assert queue.take() == first + second


def test_a_full_batch_waits_for_no_delay_and_the_rest_keeps_its_own(clock: Clock) -> None:
    queue = batcher(clock, size=4, delay=5)
    entries = put(queue, entry(2), entry(2), entry(1))
    assert queue.take() == entries[:2]
    assert queue.take(wait=False) == []
    clock.now += 5
    assert queue.take() == entries[2:]


def test_the_delay_ends_by_itself() -> None:
    queue = Batcher(max_batch_size=4, max_queue_size=4, instances=9, max_queue_delay=0.02)
    entries = put(queue, entry())
    assert queue.take(wait=False) == []
    assert queue.take() == entries


def test_when_the_oldest_is_cancelled_the_delay_counts_from_the_next(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = entry()
    put(queue, first)
    clock.now += 4
    second = put(queue, entry())
    queue.cancel(first)
    clock.now += 1
    assert queue.take(wait=False) == []
    clock.now += 4
    assert queue.take() == second


def test_close_refuses_new_entries_and_drains_the_old_without_delay(clock: Clock) -> None:
    queue = batcher(clock, size=2, delay=5)
    entries = put(queue, *(entry() for _ in range(3)))
    queue.close()
    with pytest.raises(UnavailableError, match="the server is stopping"):
        queue.put(entry())
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [entries[:2], entries[2:], [], []]


def batches_until_closed(queue: Batcher) -> Iterator[list[QueuedRequest]]:
    while batch := queue.take():
        yield batch


def test_close_wakes_everyone_who_waits(clock: Clock) -> None:
    queue = batcher(clock)
    takers = [threading.Thread(target=lambda: list(batches_until_closed(queue))) for _ in range(4)]
    for taker in takers:
        taker.start()
    queue.close()
    for taker in takers:
        taker.join(30)
        assert not taker.is_alive()


def test_several_takers_share_the_work_and_everyone_is_answered_once() -> None:
    queue = Batcher(max_batch_size=3, max_queue_size=10_000, instances=4)
    callers = [Caller() for _ in range(3000)]
    sizes: list[int] = []

    def compute() -> None:
        for batch in batches_until_closed(queue):
            sizes.append(len(batch))
            for one in batch:
                one.complete(InferenceResult({}, Timings(id(one), 0, 0, 0, 1)))
            queue.finish(batch)

    entries = [entry(on_complete=caller) for caller in callers]
    takers = [threading.Thread(target=compute) for _ in range(4)]
    putters = [threading.Thread(target=put, args=(queue, *entries[part::3])) for part in range(3)]
    for thread in (*takers, *putters):
        thread.start()
    for number in range(0, len(entries), 7):
        queue.cancel(entries[number])
    for thread in putters:
        thread.join(60)
    queue.close()
    for thread in takers:
        thread.join(60)
        assert not thread.is_alive()
    assert len(queue) == 0
    assert max(sizes) <= 3
    for number, (one, caller) in enumerate(zip(entries, callers, strict=True)):
        if number % 7:
            assert caller.answer.timings.queue_ns == id(one)
        else:
            assert len(caller.outcomes) == 1


def test_a_taker_that_waits_is_woken_by_an_entry(clock: Clock) -> None:
    queue = batcher(clock)
    taken: list[list[QueuedRequest]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    entries = put(queue, entry())
    taker.join(30)
    assert taken == [entries]


def test_a_batch_wakes_one_thread_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finishes one takes what has gathered meanwhile, and nobody else is woken for it."""
    queue = Batcher(max_batch_size=4, max_queue_size=100, instances=1)
    woken: list[int] = []
    monkeypatch.setattr(queue._changed, "notify", lambda n=1: woken.append(n))
    put(queue, entry())
    computed = queue.take()
    assert woken == [1]
    for _ in range(5):
        put(queue, *(entry() for _ in range(4)))
        queue.finish(computed)
        computed = queue.take()
        assert len(computed) == 4
    assert woken == [1]


def test_who_came_while_all_were_busy_is_taken_when_the_delay_is_over() -> None:
    queue = Batcher(max_batch_size=2, max_queue_size=10, instances=1, max_queue_delay=0.1)
    put(queue, entry(2))
    computed = queue.take(wait=False)  # by a thread that does not come back to wait
    taken: list[list[QueuedRequest]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taker.start()
    while not queue._changed._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    entries = put(queue, entry())
    queue.finish(computed)
    taker.join(30)
    assert taken == [entries]
