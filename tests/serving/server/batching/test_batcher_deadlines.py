"""Requests that cannot be answered in time are refused on admission, or dropped before they are computed.

Batches of up to 4 samples take a quarter of a second per sample here.
"""

import pytest

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.deadlines import RESERVED_SHARE
from hangtag.serving.server.batching.service_time import FRESH_SECONDS
from hangtag.serving.server.errors import CancelledError, DeadlineError
from tests.serving.server.parts import Caller, Clock, batcher, new_request


@pytest.fixture
def clock() -> Clock:
    return Clock()


def measured(clock: Clock, *, instances: int = 1, delay: float = 0.0) -> Batcher:
    queue = batcher(clock, instances=instances, delay=delay)
    for samples in (1, 4):
        queue.put(new_request(samples))
        clock.now += delay
        queue.finish(queue.take(), samples / 4)
    return queue


def compute(queue: Batcher, samples: int) -> None:
    queue.put(new_request(samples))
    assert len(queue.take(wait=False)) == 1


def admitted(queue: Batcher, clock: Clock, seconds: float, samples: int = 1) -> bool:
    try:
        queue.put(new_request(samples, deadline=clock.now + seconds))
    except DeadlineError:
        return False
    return True


def test_a_lone_request_needs_only_its_own_time(clock: Clock) -> None:
    queue = measured(clock)
    assert not admitted(queue, clock, 0.2)
    assert len(queue) == 0
    assert admitted(queue, clock, 0.3)


def test_the_message_states_the_times_and_what_to_do(clock: Clock) -> None:
    queue = measured(clock)
    refused = Caller()
    with pytest.raises(DeadlineError) as caught:
        queue.put(new_request(4, refused, deadline=clock.now + 0.5))
    assert str(caught.value) == (
        "an answer needs about 1000.0 ms now and the deadline is in 500.0 ms; nothing was started. "
        "Allow more time, or try again later"
    )
    assert refused.outcomes == []


def test_a_deadline_that_has_passed_is_called_so(clock: Clock) -> None:
    queue = measured(clock)
    with pytest.raises(DeadlineError, match="now and the deadline has passed; nothing was started"):
        queue.put(new_request(4, Caller(), deadline=clock.now - 0.0001))


def test_a_request_waits_for_the_batch_that_is_being_computed(clock: Clock) -> None:
    queue = measured(clock)
    compute(queue, 4)
    clock.now += 0.5
    needed = 0.75 / (1 - RESERVED_SHARE)
    assert not admitted(queue, clock, needed - 0.01)
    assert admitted(queue, clock, needed + 0.01)


def test_a_batch_that_takes_longer_than_expected_is_expected_any_moment(clock: Clock) -> None:
    queue = measured(clock)
    compute(queue, 1)
    clock.now += 0.9
    needed = 0.25 / (1 - RESERVED_SHARE)
    assert not admitted(queue, clock, needed - 0.01)
    assert admitted(queue, clock, needed + 0.01)


def test_with_a_free_instance_no_request_waits(clock: Clock) -> None:
    queue = measured(clock, instances=2)
    compute(queue, 4)
    assert admitted(queue, clock, 0.3)


def test_whole_batches_ahead_count_and_instances_share_them(clock: Clock) -> None:
    for instances, needed in ((1, 3.0), (2, 2.0)):  # its own will be whole as well
        queue = measured(clock, instances=instances)
        for _ in range(2):
            queue.put(new_request(4))
        assert not admitted(queue, clock, needed - 0.05)
        assert admitted(queue, clock, needed + 0.05)


def test_a_request_that_joins_a_batch_needs_the_whole_batchs_time(clock: Clock) -> None:
    queue = measured(clock)
    queue.put(new_request(2))
    assert not admitted(queue, clock, 0.7)
    assert admitted(queue, clock, 0.8)


def test_a_request_that_can_no_longer_be_answered_in_time_is_not_computed(clock: Clock) -> None:
    queue = measured(clock)
    late, in_time = Caller(), Caller()
    queue.put(new_request(1, late, deadline=clock.now + 0.6))
    queue.put(new_request(1, in_time, deadline=clock.now + 0.9))
    clock.now += 0.5
    (taken,) = queue.take()
    assert taken.deadline == pytest.approx(clock.now + 0.4)
    assert isinstance(late.outcome, DeadlineError)
    assert in_time.outcomes == []


def test_a_batch_grows_no_larger_than_its_members_deadlines_allow(clock: Clock) -> None:
    queue = measured(clock)
    patient, hurried = Caller(), Caller()
    queue.put(new_request(1, patient))
    queue.put(new_request(1, hurried, deadline=clock.now + 0.6))
    others = [new_request(1, deadline=clock.now + 9), new_request(1)]
    for other in others:
        queue.put(other)
    taken = queue.take()
    assert [one.samples for one in taken] == [1, 1]
    assert taken[1].deadline == pytest.approx(clock.now + 0.6)
    assert hurried.outcomes == []
    queue.finish(taken, 0.5)
    assert queue.take() == others
    assert len(queue) == 0


def test_a_request_that_does_not_fit_the_batch_is_not_dropped_for_the_time_of_both(clock: Clock) -> None:
    """With the batch it would be 6 samples, 1.5 s; the next batch has 4 at most and takes a second."""
    queue = measured(clock, instances=2)
    first, second = new_request(3), new_request(3, deadline=clock.now + 1.2)
    queue.put(first)
    queue.put(second)
    assert queue.take(wait=False) == [first]
    assert queue.take(wait=False) == [second]


def test_a_request_that_would_be_computed_only_just_in_time_is_dropped(clock: Clock) -> None:
    """Sending the answer takes time that the batcher does not see, so the answer would be late."""
    queue = measured(clock)
    queue.put(new_request(4))
    computed = queue.take()
    just, soon = Caller(), Caller()
    queue.put(new_request(1, just, deadline=clock.now + 2))
    queue.put(new_request(1, soon, deadline=clock.now + 3))
    clock.now += 1.7  # it took longer than expected
    queue.finish(computed)
    (taken,) = queue.take()
    assert taken.deadline == pytest.approx(clock.now + 1.3)
    assert isinstance(just.outcome, DeadlineError)
    assert soon.outcomes == []


def test_old_measurements_refuse_no_request(clock: Clock) -> None:
    queue = measured(clock)
    clock.now += FRESH_SECONDS + 1
    assert admitted(queue, clock, 0.1)
    assert len(queue.take()) == 1


def test_measurements_stay_valid_while_a_batch_is_computed(clock: Clock) -> None:
    queue = measured(clock)
    compute(queue, 4)
    clock.now += FRESH_SECONDS + 1
    assert not admitted(queue, clock, 0.2)


def test_a_failed_batch_does_not_refresh_the_measurements(clock: Clock) -> None:
    queue = measured(clock)
    queue.put(new_request(4))
    computed = queue.take()
    clock.now += FRESH_SECONDS + 1
    queue.finish(computed)
    assert admitted(queue, clock, 0.2)


def test_measurements_that_were_old_when_a_batch_began_stay_invalid(clock: Clock) -> None:
    queue = measured(clock)
    clock.now += FRESH_SECONDS + 1
    compute(queue, 4)
    assert admitted(queue, clock, 0.2)


def test_a_delay_takes_no_more_than_half_of_what_a_deadline_leaves_to_spare(clock: Clock) -> None:
    queue = measured(clock, delay=10)
    queue.put(new_request(1, deadline=clock.now + 3))  # a full batch takes 1
    assert queue.time_to_due() == pytest.approx(1)
    assert queue.take(wait=False) == []
    clock.now += 1
    assert len(queue.take(wait=False)) == 1


def test_the_nearest_deadline_ends_the_delay_of_the_whole_batch(clock: Clock) -> None:
    queue = batcher(clock, size=5, delay=10)
    waiting = [
        new_request(),
        new_request(deadline=clock.now + 8),
        new_request(deadline=clock.now + 4),
        new_request(deadline=clock.now + 100),
    ]
    for one in waiting:
        queue.put(one)
    clock.now += 1.9
    assert queue.take(wait=False) == []
    clock.now += 0.1
    assert queue.take() == waiting


def test_without_time_to_spare_a_request_is_not_held_back(clock: Clock) -> None:
    queue = measured(clock, delay=10)
    queue.put(new_request(1, deadline=clock.now + 0.5))
    assert len(queue.take(wait=False)) == 1


def test_a_deadline_that_has_passed_is_refused_before_any_measurement(clock: Clock) -> None:
    assert not admitted(batcher(clock), clock, -0.1)


def test_a_request_without_a_deadline_is_never_refused_for_time(clock: Clock) -> None:
    queue = measured(clock)
    for _ in range(50):
        queue.put(new_request(4))
    assert len(queue) == 50


@pytest.mark.parametrize(
    ("after", "expected"), [(1.0, CancelledError), (9.8, CancelledError), (9.95, DeadlineError), (11.0, DeadlineError)]
)
def test_a_cancellation_at_the_deadline_counts_as_late(clock: Clock, after: float, expected: type[Exception]) -> None:
    """gRPC cancels a call at its deadline by the client's clock; the server may know it rounded up by a hundredth."""
    queue, caller = batcher(clock), Caller()
    one = new_request(on_complete=caller, deadline=clock.now + 10)
    queue.put(one)
    clock.now += after
    queue.cancel(one)
    assert type(caller.outcome) is expected
    assert len(queue) == 0
