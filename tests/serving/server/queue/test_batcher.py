"""Examples of the batcher's deadlines, measured service times, delays and cancellations.

test_batcher_properties tests any order of events. Tests with real servers show that requests wake threads."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.server.errors import CancelledError, DeadlineError
from hangtag.serving.server.queue.batcher import Batcher
from tests.kit.parts import Clock, KeptCall, batcher, put


@pytest.fixture
def clock() -> Clock:
    return Clock()


FRESH_SECONDS = 1.0
"""The batcher ignores measurements that are this many seconds old or older."""


def measured(clock: Clock, *, instances: int = 1, delay: float = 0.0) -> Batcher:
    """A batcher that has measured its batches. They have up to 4 samples and take a quarter of a second per sample."""
    queue = batcher(clock, instances=instances, delay=delay)
    for samples in (1, 4):
        queue.put(KeptCall(samples))
        clock.now += delay
        queue.finish(queue.take(), samples / 4)
    return queue


def compute(queue: Batcher, samples: int) -> None:
    put(queue, KeptCall(samples))
    assert len(queue.take()) == 1


def admitted(queue: Batcher, clock: Clock, seconds: float, samples: int = 1) -> bool:
    try:
        queue.put(KeptCall(samples, deadline=clock.now + seconds))
    except DeadlineError:
        return False
    return True


def wait(*samples: int) -> Callable[[Batcher, Clock], object]:
    """Enqueue one request for each of these sample counts."""
    return lambda queue, _: put(queue, *map(KeptCall, samples))


def begin(samples: int, seconds: float) -> Callable[[Batcher, Clock], None]:
    """Begin a batch with this many samples, and let this many seconds pass."""

    def begin(queue: Batcher, clock: Clock) -> None:
        compute(queue, samples)
        clock.now += seconds

    return begin


def pause_and_begin(queue: Batcher, clock: Clock) -> None:
    clock.now += FRESH_SECONDS + 1
    compute(queue, 4)


IN_TIME = 0.8
"""The share of the time to a deadline that may be spent on computing. The rest is reserved for sending the answer."""


@pytest.mark.parametrize(
    ("before", "instances", "needed"),
    [
        pytest.param(wait(), 1, 0.25, id="alone"),
        pytest.param(wait(2), 1, 0.75, id="it joins a batch, which takes longer"),
        pytest.param(wait(4, 4), 1, 3.0, id="whole batches ahead, and its own will be whole as well"),
        pytest.param(wait(4, 4), 2, 2.0, id="instances share them"),
        pytest.param(begin(4, 0.5), 1, 0.75 / IN_TIME, id="a batch is being computed"),
        pytest.param(begin(1, 0.9), 1, 0.25 / IN_TIME, id="it takes longer than expected, and may end any moment"),
        pytest.param(begin(4, 0), 2, 0.25, id="an instance is free"),
        pytest.param(begin(4, FRESH_SECONDS + 1), 1, 0.25 / IN_TIME, id="measurements stay valid meanwhile"),
        pytest.param(pause_and_begin, 1, 0, id="measurements were old when a batch began"),
    ],
)
def test_a_request_is_admitted_with_the_time_that_it_needs_and_refused_with_less(
    clock: Clock, before: Callable[[Batcher, Clock], object], instances: int, needed: float
) -> None:
    queue = measured(clock, instances=instances)
    before(queue, clock)
    waiting, refused = queue.waiting, KeptCall(deadline=clock.now + needed - 0.01)
    with pytest.raises(DeadlineError, match=r"needs about \d+\.\d ms now" if needed else "the deadline has passed"):
        queue.put(refused)
    assert (queue.waiting, refused.outcomes) == (waiting, [])
    assert admitted(queue, clock, needed + 0.01)


def test_a_request_that_can_no_longer_be_answered_in_time_is_not_computed(clock: Clock) -> None:
    queue = measured(clock)
    late, in_time = (KeptCall(deadline=clock.now + seconds) for seconds in (0.6, 0.9))
    put(queue, late, in_time)
    clock.now += 0.5
    assert queue.take() == [in_time]
    assert (late.done, in_time.done) == (True, False)


def test_a_request_that_would_be_computed_only_just_in_time_is_dropped(clock: Clock) -> None:
    """The batcher cannot know how long sending takes, so it drops a call that would have almost no time left for it."""
    queue = measured(clock)
    put(queue, KeptCall(4))
    computed = queue.take()
    just, soon = (KeptCall(deadline=clock.now + seconds) for seconds in (2, 3))
    put(queue, just, soon)
    clock.now += 1.7  # the batch takes longer than expected
    queue.finish(computed)
    assert queue.take() == [soon]
    assert (just.done, soon.done) == (True, False)


def test_a_batch_grows_no_larger_than_its_members_deadlines_allow(clock: Clock) -> None:
    queue = measured(clock)
    first = [KeptCall(), KeptCall(deadline=clock.now + 0.6)]
    others = [KeptCall(deadline=clock.now + 9), KeptCall()]
    put(queue, *first, *others)
    taken = queue.take()
    assert taken == first
    queue.finish(taken, 0.5)
    assert queue.take() == others
    assert queue.waiting == 0


def test_a_request_that_does_not_fit_the_batch_is_not_dropped_for_the_time_of_both(clock: Clock) -> None:
    """Together, the two requests have 6 samples and would take 1.5 s. A batch has at most 4 samples, which take 1 s."""
    queue = measured(clock, instances=2)
    first, second = KeptCall(3), KeptCall(3, deadline=clock.now + 1.2)
    put(queue, first, second)
    assert [queue.take(), queue.take()] == [[first], [second]]


def test_a_failed_batch_does_not_refresh_the_measurements(clock: Clock) -> None:
    queue = measured(clock)
    queue.put(KeptCall(4))
    computed = queue.take()
    clock.now += FRESH_SECONDS + 1
    queue.finish(computed)
    assert admitted(queue, clock, 0.2)


def test_a_delay_takes_no_more_than_half_of_what_a_deadline_leaves_to_spare(clock: Clock) -> None:
    queue = measured(clock, delay=10)
    queue.put(KeptCall(1, deadline=clock.now + 3))  # a full batch takes 1 s, so the call can spare 2 s
    assert queue.time_to_due() == pytest.approx(1)
    assert queue.take() == []
    clock.now += 1
    taken = queue.take()
    assert len(taken) == 1
    queue.finish(taken, 0.25)
    queue.put(KeptCall(1, deadline=clock.now + 0.5))  # there is no time to spare
    assert len(queue.take()) == 1


def test_the_nearest_deadline_ends_the_delay_of_the_whole_batch(clock: Clock) -> None:
    queue = batcher(clock, size=5, delay=10)
    deadlines = (None, clock.now + 8, clock.now + 4, clock.now + 100)
    waiting = [KeptCall(deadline=deadline) for deadline in deadlines]
    put(queue, *waiting)
    clock.now += 1.9
    assert queue.take() == []
    clock.now += 0.1
    assert queue.take() == waiting


@pytest.mark.parametrize(
    ("after", "expected"), [(1.0, CancelledError), (9.8, CancelledError), (9.95, DeadlineError), (11.0, DeadlineError)]
)
def test_a_cancellation_at_the_deadline_counts_as_late(clock: Clock, after: float, expected: type[Exception]) -> None:
    """gRPC cancels a call at the client's deadline. The server may set a deadline up to 1 % later than the client's."""
    queue, one = batcher(clock), KeptCall(deadline=clock.now + 10)
    queue.put(one)
    clock.now += after
    queue.cancel(one)
    assert type(one.outcome) is expected
    assert queue.waiting == 0


def observe(queue: Batcher, *batches: tuple[int, float]) -> Batcher:
    """For each pair (samples, seconds), report a finished batch of this size and duration."""
    for samples, seconds in batches:
        queue.put(KeptCall(samples))
        queue.finish(queue.take(), seconds)
    return queue


def predict(queue: Batcher, samples: int) -> float:
    """The predicted seconds until an answer, to 0.1 ms, which the batcher states when it refuses a late request."""
    with pytest.raises(DeadlineError) as refusal:
        queue.put(KeptCall(samples, deadline=0))
    (milliseconds,) = re.findall(r"needs about (-?\d+\.\d) ms", str(refusal.value))
    return float(milliseconds) / 1e3


def observed(*batches: tuple[int, float]) -> Batcher:
    """A batcher with a maximum batch size of 64, which has computed these batches."""
    return observe(batcher(Clock(), size=64), *batches)


@given(st.floats(0, 10), st.floats(1e-3, 10), st.lists(st.integers(1, 64), min_size=20, max_size=60))
def test_the_line_is_recovered_from_batches_on_it(a: float, b: float, sizes: list[int]) -> None:
    queue = observed(*((samples, a + b * samples) for samples in (1, 64, *sizes)))
    for samples in (1, 8, 64):
        assert predict(queue, samples) == pytest.approx(a + b * samples, rel=0.35, abs=1e-4)


def test_one_size_alone_counts_as_a_cost_per_sample_and_nothing_as_no_cost() -> None:
    assert predict(observed(), 64) == 0
    queue = observed(*[(8, 0.8)] * 5)
    assert [predict(queue, samples) for samples in (8, 16)] == pytest.approx([0.8, 1.6])


def test_a_size_seen_long_ago_still_gives_the_slope() -> None:
    queue = observed((1, 0.11), (1, 0.11), *[(32, 0.42)] * 500)
    assert predict(queue, 32) == pytest.approx(0.42, rel=0.01)
    assert predict(queue, 1) == pytest.approx(0.11, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=50))
def test_predictions_never_fall_with_size_and_are_never_negative(batches: list[tuple[int, float]]) -> None:
    queue = observed(*batches)
    times = [predict(queue, samples) for samples in range(1, 65)]
    assert times[0] >= 0
    assert times == sorted(times)


def test_predictions_follow_a_machine_that_gets_slower_but_one_stall_is_no_trend() -> None:
    slower, stalled = (observed(*[(1, 1.0), (4, 4.0)] * 20) for _ in range(2))
    observe(slower, *[(4, 12.0)] * 20)
    assert predict(slower, 4) == pytest.approx(12.0, rel=0.1)
    observe(stalled, (4, 1000.0))
    assert predict(stalled, 4) < 7


def test_a_stall_at_the_first_batch_of_a_size_counts_as_four_times_the_prediction() -> None:
    stalled, slow = observed((1, 1.0), (2, 1000.0)), observed((1, 1.0), (2, 8.0))
    assert predict(stalled, 2) == predict(slow, 2)


def test_old_observations_are_ignored(clock: Clock) -> None:
    queue = batcher(clock, instances=2)
    compute(queue, 1)  # this batch begins before the first observation and does not end during the test
    observe(queue, (4, 4.0))
    clock.now += FRESH_SECONDS
    assert predict(queue, 4) == 4
    clock.now += 0.001
    assert predict(queue, 4) == 0
    observe(queue, (4, 4.0))
    assert predict(queue, 4) == 4


class BrokenCall(KeptCall):
    """A call whose transport raises an exception when the call fails."""

    def fail(self, error: Exception) -> None:
        raise RuntimeError("the transport's own")


def test_a_late_call_whose_transport_raises_loses_no_other_one(clock: Clock) -> None:
    queue = batcher(clock)
    put(queue, BrokenCall(deadline=clock.now))
    others = put(queue, KeptCall())
    assert queue.take() == others


def test_the_delay_counts_from_the_oldest_request_that_is_not_cancelled(clock: Clock) -> None:
    queue = batcher(clock, delay=5)
    first = KeptCall()
    put(queue, first)
    clock.now += 2
    others = put(queue, KeptCall())
    clock.now += 2
    others += put(queue, KeptCall())
    queue.cancel(first)
    clock.now += 2
    assert queue.take() == []
    clock.now += 1
    assert queue.take() == others
