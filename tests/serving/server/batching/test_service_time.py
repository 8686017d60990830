import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.server.batching.service_time import FRESH_SECONDS, ServiceTime
from tests.serving.server.parts import Clock


def learned(*batches: tuple[int, float], clock: Clock | None = None) -> ServiceTime:
    line = ServiceTime(clock or Clock())
    for samples, seconds in batches:
        line.observe(samples, seconds)
    return line


def test_the_prediction_is_zero_before_the_first_batch() -> None:
    assert learned().predict(64) == 0


@given(st.floats(0, 1e-2), st.floats(1e-6, 1e-2), st.lists(st.integers(1, 64), min_size=20, max_size=60))
def test_the_line_is_recovered_from_batches_on_it(a: float, b: float, sizes: list[int]) -> None:
    line = learned(*((samples, a + b * samples) for samples in (1, 64, *sizes)))
    for samples in (1, 8, 64):
        assert line.predict(samples) == pytest.approx(a + b * samples, rel=0.35)


def test_one_size_alone_counts_as_a_cost_per_sample() -> None:
    line = learned(*[(8, 0.8)] * 5)
    assert line.predict(8) == pytest.approx(0.8)
    assert line.predict(16) == pytest.approx(1.6)


def test_a_size_seen_long_ago_still_gives_the_slope() -> None:
    line = learned((1, 0.11), (1, 0.11), *[(32, 0.42)] * 500)
    assert line.predict(32) == pytest.approx(0.42, rel=0.01)
    assert line.predict(1) == pytest.approx(0.11, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=50))
def test_predictions_never_fall_with_size_and_are_never_negative(batches: list[tuple[int, float]]) -> None:
    line = learned(*batches)
    times = [line.predict(samples) for samples in range(1, 65)]
    assert times[0] >= -1e-9
    assert times == sorted(times)


def test_predictions_follow_a_machine_that_gets_slower() -> None:
    line = learned(*[(1, 1.0), (4, 4.0)] * 20)
    for _ in range(20):
        line.observe(4, 12.0)
    assert line.predict(4) == pytest.approx(12.0, rel=0.1)


def test_one_stall_is_no_trend() -> None:
    line = learned(*[(1, 1.0), (4, 4.0)] * 20)
    line.observe(4, 1000.0)
    assert line.predict(4) < 7


def test_old_observations_are_ignored() -> None:
    clock = Clock()
    line = learned((4, 4.0), clock=clock)
    clock.now += FRESH_SECONDS
    assert line.predict(4) == 4
    clock.now += 0.001
    assert line.predict(4) == 0
    line.observe(4, 4.0)
    assert line.predict(4) == 4
