"""When an open loop sends its queries, and when a block ends."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from hangtag.serving.loadtest.plan.load import Arrivals, Limits, OpenLoop, planned_send_times, random_generator

pytestmark = pytest.mark.quick

AMPLE = {"max_duration": 1e6, "max_query_count": 10**6}


def test_constant_arrivals_are_equally_far_apart_and_end_with_both_minima() -> None:
    limits = Limits(min_duration=1.0, min_query_count=5, **AMPLE)  # type: ignore[arg-type]
    times = planned_send_times(OpenLoop(10.0, "constant"), limits, 0.5, random_generator(0, "schedule"))
    assert np.diff(times) == pytest.approx(0.1)
    assert times[-1] >= 1.5 > times[-2]


@pytest.mark.parametrize("rate", [3.0, 250.0])
def test_poisson_arrivals_are_a_poisson_process(rate: float) -> None:
    limits = Limits(min_duration=1.0, min_query_count=5000, **AMPLE)  # type: ignore[arg-type]
    times = planned_send_times(OpenLoop(rate), limits, 0.0, random_generator(3, "schedule"))
    assert kstest(np.diff(times), "expon", args=(0, 1 / rate)).pvalue > 0.01
    # Given the number of arrivals, their times are uniformly distributed.
    assert kstest(times[:-1], "uniform", args=(0, times[-1])).pvalue > 0.01
    # The variance of the counts in disjoint intervals equals the mean of the counts.
    counts = np.histogram(times, bins=250)[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.3)


def test_a_seed_repeats_its_schedule_and_each_purpose_has_its_own() -> None:
    limits = Limits(min_duration=1.0, min_query_count=10, **AMPLE)  # type: ignore[arg-type]

    def plan(seed: int, purpose: str, index: int) -> list[float]:
        return list(planned_send_times(OpenLoop(50.0), limits, 0.0, random_generator(seed, purpose, index)))

    assert plan(1, "schedule", 0) == plan(1, "schedule", 0)
    assert plan(1, "schedule", 0) != plan(2, "schedule", 0)
    assert plan(1, "schedule", 0) != plan(1, "schedule", 1)
    assert plan(1, "schedule", 0) != plan(1, "samples", 0)


@given(
    rate=st.floats(0.5, 5000),
    arrivals=st.sampled_from(["poisson", "constant"]),
    warm_up=st.floats(0, 1),
    duration=st.floats(0.01, 3),
    count=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_a_schedule_ascends_and_is_the_shortest_that_fulfils_both_minima(
    rate: float, arrivals: Arrivals, warm_up: float, duration: float, count: int, seed: int
) -> None:
    limits = Limits(duration, count, **AMPLE)  # type: ignore[arg-type]
    times = planned_send_times(OpenLoop(rate, arrivals), limits, warm_up, random_generator(seed, "schedule"))
    assert (np.diff(times) >= 0).all()

    def fulfils(planned: np.ndarray, rounding: float) -> bool:
        return bool(planned.size) and limits.reached(planned[-1] - warm_up + rounding, int((planned >= warm_up).sum()))

    assert fulfils(times, rounding=1e-9)
    assert not fulfils(times[:-1], rounding=-1e-9)


@given(rate=st.floats(1, 5000), count=st.integers(1, 50), duration=st.floats(0.01, 1))
def test_a_schedule_never_exceeds_its_maxima(rate: float, count: int, duration: float) -> None:
    limits = Limits(min_duration=duration, min_query_count=count, max_duration=duration, max_query_count=count)
    times = planned_send_times(OpenLoop(rate), limits, 0.1, random_generator(0, "schedule"))
    assert (times >= 0.1).sum() <= count
    assert not times.size or times[-1] < 0.1 + duration


def test_the_lowest_rate_of_a_search_is_enough_for_poisson_arrivals() -> None:
    """At 82 calls a second, the 4,603 queries that determine p99.9 arrive within 60 s."""
    limits = Limits(min_duration=3.0, min_query_count=4603, max_duration=60.0, max_query_count=10**6)
    for seed in range(200):
        times = planned_send_times(OpenLoop(82.0), limits, 0.0, random_generator(seed, "schedule"))
        assert len(times) == 4603


def test_the_limits_of_a_run_are_divided_among_its_blocks() -> None:
    limits = Limits(min_duration=3.0, min_query_count=500, max_duration=60.0, max_query_count=1000)
    assert astuple(limits.per_block(7)) == pytest.approx((3 / 7, 72, 60 / 7, 143))
