from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.statistics.early_stopping import samples_needed
from tests.serving.loadtest.builders import block


def run_of(*seconds: float, failed: int = 0, **more: object) -> Run:
    return Run((block("cnn", OpenLoop(100.0), seconds, failed=failed),), 1, **more)  # type: ignore[arg-type]


def test_a_percentile_keeps_its_bound_when_chance_is_ruled_out() -> None:
    fast, slow = (0.001,), (0.1,)
    needed = samples_needed(1, 99.0)
    assert run_of(*fast * (needed - 1), *slow, target_latency=0.01).keeps_target
    assert not run_of(*fast * (needed - 2), *slow, target_latency=0.01).keeps_target
    assert not run_of(*fast * (needed - 1), *slow * 2, target_latency=0.01).keeps_target
    assert run_of(*fast * 100, target_latency=0.01, percentile=90.0).keeps_target
    assert run_of(*fast).keeps_target is None


def test_queries_over_a_bound_are_counted_to_three_digits() -> None:
    run = run_of(0.009, 0.010, 0.0101, 0.011, 0.02)
    assert (run.over(0.01005), run.over(0.0105), run.over(0.005), run.over(0.03)) == (3, 2, 5, 0)


def test_a_failed_call_is_over_every_bound() -> None:
    run = run_of(*(0.001,) * 661, failed=1, target_latency=1.0)
    assert run.over(1.0) == 1
    assert run.keeps_target
    assert not run_of(*(0.001,) * 660, failed=1, target_latency=1.0).keeps_target


@pytest.mark.parametrize("latency", [0.001, 1.0])
def test_too_few_queries_neither_keep_a_bound_nor_miss_it(latency: float) -> None:
    short = run_of(*(latency,) * 500, target_latency=0.01, percentile=99.9, judged=True)
    assert short.keeps_target is None
    assert not short.valid
    (problem,) = short.problems
    assert problem.startswith("it is too short: 500 queries are too few to tell a p99.9 with 99 % confidence")
    assert short.notes == ()
    long = run_of(*(latency,) * 4603, target_latency=0.01, percentile=99.9, judged=True)
    assert (long.valid, long.keeps_target) == (True, latency < 0.01)
    # A run that is not judged notes it, and stays VALID.
    unjudged = run_of(*(latency,) * 50)
    assert unjudged.valid
    assert "too few to tell a p99" in unjudged.notes[0]


@given(seed=st.integers(0, 100))
def test_the_bound_of_a_percentile_is_above_the_true_one_almost_always(seed: int) -> None:
    """An exponential distribution's 90th percentile is ln 10. With 99 % confidence hardly any bound is below."""
    random = np.random.default_rng(seed)
    below = sum(
        run_of(*random.exponential(1.0, 200), percentile=90.0).percentile_bound < np.log(10) * 0.999 for _ in range(10)
    )
    assert below <= 3


def test_the_bound_is_the_smallest_latency_that_few_enough_are_over() -> None:
    run = run_of(*(0.001,) * 600, *(0.1,) * 62)
    assert run.percentile_bound == pytest.approx(0.1, rel=0.01)
    assert run_of(*(0.001,) * 661, 0.1).percentile_bound == pytest.approx(0.001, rel=0.01)
    assert np.isnan(run_of(*(0.001,) * 458).percentile_bound)
    assert run_of(*(0.001,) * 459).percentile_bound == pytest.approx(0.001, rel=0.01)


def test_a_judged_run_has_a_verdict_on_its_percentile() -> None:
    enough = (0.001,) * 700
    judged_by_target: dict[str, Any] = {"target_latency": 0.01, "judged": True}
    assert (
        run_of(*enough, **judged_by_target).verdict == "cnn at 100 calls/s keeps p99 within 10.0 ms (99 % confidence)."
    )
    slow = run_of(*enough, *(1.0,) * 20, **judged_by_target)
    assert slow.verdict == "cnn at 100 calls/s is not shown to keep p99 within 10.0 ms (99 % confidence)."
    assert run_of(*enough, judged=True).verdict == "cnn at 100 calls/s: p99 is at most 1.00 ms (99 % confidence)."
    assert run_of(*enough).verdict == ""  # It is not judged.
    assert run_of(*enough, failed=1, **judged_by_target).verdict == ""  # An INVALID run has no verdict.


def test_a_busy_generator_is_noted_as_the_bottleneck() -> None:
    blocks = (block("cnn", ClosedLoop(8), (0.001,) * 500),)
    assert Run(blocks, 1).notes == ()
    assert not Run(blocks, 1, ceiling=600.0).generator_limited
    (note,) = Run(blocks, 1, ceiling=510.0).notes
    assert "the generator was the bottleneck (its ceiling at 8 in flight is 510 calls/s)" in note
    object.__setattr__(blocks[0], "generator_cpu", 0.97)
    (note,) = Run(blocks, 1).notes
    assert "(its busiest process used 97% of a CPU)" in note
    object.__setattr__(blocks[0], "generator_cpu", 0.5)
    assert Run(blocks, 1).notes == ()
    object.__setattr__(blocks[0], "generator_busy", 0.96)
    (note,) = Run(blocks, 1).notes
    assert "(its busiest thread computed, or waited for a CPU, 96% of the time)" in note
    # A measured ceiling overrides what is inferred from how busy the generator was.
    assert not Run(blocks, 1, ceiling=600.0).generator_limited


def test_a_generator_that_takes_the_servers_cpu_time_is_noted() -> None:
    shared = block("cnn", ClosedLoop(8), (0.001,) * 500, cpu_share=0.12, cpus_busy=0.96)
    run = Run((shared,), 1)
    assert run.limited_by_generator
    assert not run.generator_limited  # The server was still the slower of the two.
    (note,) = run.notes
    assert note == (
        "the generator was a limit too: it took 12% of the CPUs that it shared with the server, which were busy 96% of "
        "the time, so the server alone may be up to 1.1 times as fast"
    )
    for other in ({"cpu_share": 0.04}, {"cpus_busy": 0.85}, {"load": OpenLoop(100.0)}):
        run = Run((replace(shared, **other),), 1)
        assert not run.limited_by_generator
        assert run.notes == ()
    # A generator that has no time left is said to be the bottleneck, and nothing else.
    (note,) = Run((replace(shared, generator_cpu=0.97),), 1).notes
    assert "the generator was the bottleneck" in note


def test_an_open_loop_has_no_bottleneck_but_late_queries() -> None:
    late = block("cnn", OpenLoop(100.0), (0.001,) * 500, delayed=26)
    object.__setattr__(late, "generator_cpu", 0.97)
    run = Run((late,), 1)
    assert not run.generator_limited
    (problem,) = run.problems
    assert problem.startswith("the generator could not keep up: 5.2% of the queries left more than 5 ms late")
    assert Run((block("cnn", OpenLoop(100.0), (0.001,) * 500, delayed=25),), 1).valid


@pytest.mark.parametrize(
    ("shares", "doubt"),
    [
        ((0.09, 0.09), ""),
        ((None, None), ""),
        ((0.05, 0.25), "other programs took 15% of this machine's CPUs meanwhile"),
        ((None, 0.3), "other programs took 30% of this machine's CPUs meanwhile"),
    ],
)
def test_other_programs_make_a_run_doubtful_but_not_invalid(shares: tuple[float | None, ...], doubt: str) -> None:
    blocks = tuple(block("a", ClosedLoop(1), others=share) for share in shares)
    run = Run(blocks, 1, planned_blocks=2)
    assert run.doubt == doubt
    assert run.valid
