"""Percentiles, and the number of queries that each of them needs, agree with numpy, scipy and hdrh."""

import math
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.statistics.durations import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import samples_needed
from tests.serving.loadtest.command import run_of

pytestmark = pytest.mark.quick

MICROSECOND = 1e-6


def histogram(*seconds: float) -> DurationHistogram:
    filled = DurationHistogram()
    filled.record(np.array(seconds))
    return filled


@given(
    samples=st.lists(st.integers(1, 50), min_size=1, max_size=300),
    q=st.one_of(
        st.sampled_from([0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0]), st.integers(0, 1000).map(lambda n: n / 10)
    ),
)
def test_percentiles_are_numpys_nearest_rank(samples: list[int], q: float) -> None:
    ours = histogram(*(each * MICROSECOND for each in samples)).percentile(q)
    # If q % of n is an integer, numpy may round to a neighbouring rank, so the test accepts the neighbours too.
    near = [np.percentile(samples, min(max(q + d, 0), 100), method="inverted_cdf") for d in (-1e-9, 0, 1e-9)]
    assert any(ours == pytest.approx(each * MICROSECOND) for each in near)


@given(batches=st.lists(st.lists(st.integers(1, 3_600_000_000), max_size=50), max_size=3))
def test_recording_many_at_once_equals_recording_each(batches: list[list[int]]) -> None:
    """Recording an array gives the same histogram and encoding as calling hdrh's record_value for each value."""
    ours, theirs = DurationHistogram(), HdrHistogram(1, 3_600_000_000, 3)
    for batch in batches:
        ours.record(np.array(batch) / 1e6)
        for value in batch:
            theirs.record_value(value)
    assert ours.counts.tolist() == list(theirs.counts)
    assert ours.encode() == theirs.encode()
    assert len(ours) == theirs.get_total_count()


def test_the_edges_of_a_histogram() -> None:
    """An empty histogram has no percentiles. Durations out of range are clipped."""
    assert len(DurationHistogram()) == 0
    assert math.isnan(DurationHistogram().percentile(50))
    assert math.isnan(DurationHistogram().maximum)
    assert histogram(-0.1, 0.0).maximum == pytest.approx(MICROSECOND)
    assert histogram(1e9).maximum == pytest.approx(3600, rel=1e-3)


PERCENTILES = st.sampled_from([50.0, 90.0, 95.0, 97.0, 99.0, 99.9])


def test_the_table_of_mlperf() -> None:
    """For each percentile, how many queries MLPerf requires if no query exceeds the limit, and how many if one does."""
    assert [samples_needed(0, q) for q in (90.0, 95.0, 99.0, 99.9)] == [44, 90, 459, 4603]
    assert [samples_needed(1, q) for q in (90.0, 95.0, 99.0, 99.9)] == [64, 130, 662, 6636]


@given(over=st.integers(0, 400), q=PERCENTILES)
def test_samples_needed_is_the_smallest_count_that_rejects_the_hypothesis(over: int, q: float) -> None:
    needed = samples_needed(over, q)
    above, chance = 1 - q / 100, 0.01
    assert binom.cdf(over, needed, above) <= chance * (1 + 1e-9)
    assert binom.cdf(over, needed - 1, above) > chance * (1 - 1e-9)


def queries(*seconds: float, **more: Any) -> Any:
    """An open-loop run whose queries had these latencies in seconds."""
    return run_of(OpenLoop(100.0), *seconds, **more)


def test_a_percentile_keeps_its_bound_when_chance_is_ruled_out() -> None:
    """A failed call exceeds every limit. ``percentile_bound`` is the percentile's upper bound with 99 % confidence."""
    fast, slow = (0.001,), (0.1,)
    needed = samples_needed(1, 99.0)
    assert queries(*fast * (needed - 1), *slow, target_latency=0.01).keeps_target
    assert not queries(*fast * (needed - 2), *slow, target_latency=0.01).keeps_target
    assert not queries(*fast * (needed - 1), *slow * 2, target_latency=0.01).keeps_target
    assert queries(*fast * (needed - 1), failed=1, target_latency=1.0).keeps_target
    assert not queries(*fast * (needed - 2), failed=1, target_latency=1.0).keeps_target
    assert queries(*fast * 100, target_latency=0.01, percentile=90.0).keeps_target
    assert queries(*fast).keeps_target is None
    assert queries(*fast * (needed - 2), *slow).percentile_bound == pytest.approx(0.1, rel=0.01)
    assert queries(*fast * (needed - 1), *slow).percentile_bound == pytest.approx(0.001, rel=0.01)
    assert queries(*fast * 459).percentile_bound == pytest.approx(0.001, rel=0.01)
    assert queries(*fast * 458).percentile_bound is None


@pytest.mark.parametrize("latency", [0.001, 1.0])
def test_too_few_queries_neither_keep_a_bound_nor_miss_it(latency: float) -> None:
    short = queries(*(latency,) * 500, target_latency=0.01, percentile=99.9, judged=True)
    assert short.keeps_target is None
    assert short.invalid == (
        "it is too short: too few queries to judge a p99.9 with 99 % confidence, which needs 4,603 queries: raise "
        "--max-duration",
    )
    long = queries(*(latency,) * 4603, target_latency=0.01, percentile=99.9, judged=True)
    assert (long.valid, long.keeps_target) == (True, latency < 0.01)


@pytest.mark.parametrize(
    ("load", "measured", "limited", "notes"),
    [
        (ClosedLoop(8), {"generator_cpu": 0.97}, True, ("bottleneck", "busiest process", "90%")),
        (ClosedLoop(8), {"generator_cpu": 0.5}, False, ()),
        (ClosedLoop(8), {"generator_busy": 0.96}, True, ("bottleneck", "thread")),
        (
            ClosedLoop(8),
            {"generator_cpu_share": 0.12, "cpus_busy": 0.96},
            True,
            ("reduced the throughput", "12%", "96%", "1.1 times"),
        ),
        (ClosedLoop(8), {"generator_cpu_share": 0.04, "cpus_busy": 0.96}, False, ()),
        (ClosedLoop(8), {"generator_cpu_share": 0.12, "cpus_busy": 0.85}, False, ()),
        (ClosedLoop(8), {"generator_cpu_share": 0.12, "cpus_busy": 0.96, "generator_cpu": 0.97}, True, ("bottleneck",)),
        (OpenLoop(100.0), {"generator_cpu_share": 0.12, "cpus_busy": 0.96, "generator_cpu": 0.97}, False, ()),
    ],
)
def test_a_closed_loop_that_the_generator_limits_is_noted(
    load: Load, measured: dict[str, Any], limited: bool, notes: tuple[str, ...]
) -> None:
    run = run_of(load, *(0.001,) * 500, measured=measured)
    assert run.valid
    assert run.limited_by_generator is limited
    assert len(run.notes) == bool(notes)
    assert all(note in run.notes[0] for note in notes)


def test_a_closed_loop_is_invalid_where_more_than_half_of_its_latency_is_the_generators() -> None:
    shares = (0.51, 0.5, 0.21, 0.2)
    runs = [run_of(ClosedLoop(1), *(0.001,) * 500, measured={"generator_latency_share": share}) for share in shares]
    assert [run.valid for run in runs] == [False, True, True, True]
    assert runs[0].invalid[0].startswith("the generator took 51% of the latency")
    noted = "the generator took more than 20% of the latency"
    assert [run.notes for run in runs[1:]] == [(noted,), (noted,), ()]


def test_an_open_loop_is_invalid_where_more_than_5_percent_of_its_queries_are_late() -> None:
    late, on_time = (queries(*(0.001,) * 500, measured={"delayed_queries": count}) for count in (26, 25))
    assert on_time.valid
    (problem,) = late.invalid
    assert problem.startswith("the generator could not keep up: 5.2% of the queries left more than 5 ms late")
