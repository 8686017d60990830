import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.comparison.gate_outcomes import judge
from hangtag.serving.loadtest.comparison.gate_requirements import require_judgeable
from hangtag.serving.loadtest.comparison.gates import OPERATORS, parse
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.plan.scenario import DEFAULT_CONCURRENCIES, PEAK_CONCURRENCY, Scenario
from hangtag.serving.loadtest.plan.target import Target
from tests.serving.loadtest.builders import block, full_results, results, two_models

NAMES = ("fast", "slow")


# Saved results in which everything of `fast` took four times as long.
BASELINE = SavedResults(
    file=Path("main.json"),
    runs=tuple(
        replace(run, blocks=tuple(replace(block, target="fast") for block in run.blocks))
        for run in two_models().runs
        if run.target == "slow"
    ),
    accuracies={"fast": 0.95},
    peaks={"fast": 2900.0},
    environment={},
    started="2026-01-02T03:04:05+00:00",
)


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("fast.p99 > 1ms", "fast.p99 > 1ms: fast's p99 at 8 in flight is 1.99 ms, the bound 1.00 ms"),
        ("slow[500].p50 >= 0.005 s", "slow.*p50 at 500 calls/s is 6.00 ms, the bound 5.00 ms"),
        ("fast.throughput < 2000", "fast's throughput at 8 in flight is 1,000/s, the bound 2,000/s"),
        ("slow.throughput < 0.5 * fast.throughput", "slow's throughput at 8 in flight is 250/s, the bound 500/s"),
        ("fast.accuracy < 91%", "fast's accuracy is 90.00%, the bound 91.00%"),
        ("fast.peak<1500", "fast's peak is 1,450/s, the bound 1,500/s"),
        ("fast[8].max > 100us", "fast's max at 8 in flight is 2.00 ms"),
        ("fast.errors >= 0", "fast's errors at 8 in flight is 0, the bound 0"),
        ("fast.error_rate >= 0", "fast's error_rate at 8 in flight is 0.00%"),
        ("fast.accuracy < baseline", "fast's accuracy is 90.00%, the bound 95.00%"),
        ("fast.peak < 0.9 * baseline", "fast's peak is 1,450/s, the bound 2,610/s"),
        ("fast[8].throughput < 4.5 * baseline", "fast's throughput at 8 in flight is 1,000/s, the bound 1,125/s"),
    ],
)
def test_a_condition_that_holds_fails_with_its_figures(condition: str, sentence: str) -> None:
    outcome = judge(parse(condition, NAMES, has_baseline=True), full_results(), BASELINE)
    assert outcome.failed
    assert re.search(sentence, outcome.sentence)


@pytest.mark.parametrize(
    "condition",
    [
        "fast.p99 > 20ms",
        "fast.errors > 0",
        "fast.error_rate > 1 %",
        "fast.error_rate >= 100 %",
        "fast[8].throughput < 3 * baseline",
        "slow.accuracy < 90 %",
    ],
)
def test_a_condition_that_does_not_hold_passes(condition: str) -> None:
    outcome = judge(parse(condition, NAMES, has_baseline=True), full_results(), BASELINE)
    assert not outcome.failed
    assert outcome.sentence.startswith(f"not {condition}: ")


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("slow.peak < 1", "slow's peak is"),
        ("fast[64].p99 > 1s", "fast has no such run"),
        ("slow.p99 > baseline", "there is nothing VALID to compare it with at 8 in flight"),
    ],
)
def test_a_condition_that_cannot_be_judged_fails(condition: str, reason: str) -> None:
    outcome = judge(parse(condition, NAMES, has_baseline=True), full_results(), BASELINE)
    assert outcome.failed
    assert f"{condition} cannot be judged: {reason}" in outcome.sentence


def test_an_invalid_run_is_no_baseline() -> None:
    restarted = replace(BASELINE, runs=tuple(replace(run, restarted=True) for run in BASELINE.runs))
    gate = parse("fast[8].throughput < 0.1 * baseline", NAMES, has_baseline=True)
    assert not judge(gate, full_results(), BASELINE).failed
    outcome = judge(gate, full_results(), restarted)
    assert outcome.failed
    assert "there is nothing VALID to compare it with at 8 in flight" in outcome.sentence


def test_a_condition_that_holds_under_one_load_fails() -> None:
    measured = two_models()
    slow_once = replace(measured.runs[0], blocks=(replace(measured.runs[1].blocks[0], target="fast"),) * 5)
    results = replace(measured, runs=(slow_once, *measured.runs[1:]))
    assert judge(parse("fast.p99 > 5ms", NAMES, has_baseline=False), results).failed
    assert not judge(parse("fast[500].p99 > 5ms", NAMES, has_baseline=False), results).failed


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "is not a condition: write TARGET.METRIC > VALUE"),
        ("fast.p99", "is not a condition"),
        ("fast.p99 > ", "is not a condition"),
        ("fast.p99 = 5ms", "is not a condition"),
        ("fast.speed > 5", "the metrics are throughput, .*, percentiles such as p50, max, .* and peak"),
        ("fast.p99 > 5 parsecs", "is not a condition"),
        ("other.p99 > 5ms", "is about 'other', which is not measured: fast, slow are"),
        ("fast.p99 > 2 * other.p99", "is about 'other'"),
        ("fast.p99 > baseline", "needs the saved results to compare with: give --baseline"),
        ("fast.p99 > 5", "p99 is a duration: give its unit, for example 5ms"),
        ("fast.max > 5 %", "max is a duration"),
        ("fast.throughput < 5ms", "throughput is a plain number, without 'ms'"),
        ("fast.accuracy < 91", "accuracy is a share: write 91 %"),
        ("fast.error_rate > 1ms", "error_rate is a share"),
        ("fast.error_rate > 1", "error_rate is a share: write 1 %, or a number below 1"),
        ("fast.error_rate >= 1", "error_rate is a share: write 1 %"),
        ("fast.accuracy < 1", "accuracy is a share: write 1 %"),
        ("fast.error_rate > 100 %", "error_rate is a share, which is at most 100 %"),
        ("fast.accuracy < 910 %", "accuracy is a share, which is at most 100 %"),
        ("fast.throughput < 0", "can never hold: throughput is never below 0"),
        ("fast.accuracy < 0 %", "can never hold: accuracy is never below 0"),
    ],
)
def test_other_texts_are_refused(condition: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(condition, NAMES, has_baseline=False)


@given(
    value=st.floats(0.0001, 1000, allow_nan=False).map(lambda value: round(value, 4)),
    operator=st.sampled_from(list(OPERATORS)),
    unit=st.sampled_from(["s", "ms", "us"]),
)
def test_numbers_and_units_mean_what_they_say(value: float, operator: str, unit: str) -> None:
    gate = parse(f"cnn-int8.p99.9{operator}{value:f}{unit}", ("cnn-int8",), has_baseline=False)
    assert (gate.figure.target, gate.figure.metric, gate.operator) == ("cnn-int8", "p99.9", operator)
    assert gate.factor == pytest.approx(value * {"s": 1, "ms": 1e-3, "us": 1e-6}[unit])


SCENARIO = Scenario((Target("fast", "fast"), Target("slow", "slow")), concurrency=(8,), rate=(500.0,))
SEARCH = Scenario(SCENARIO.targets, find_peak=True, target_latency=0.01)
SEARCH_FROM_RATE = replace(SEARCH, rate=(500.0,))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("fast.accuracy < 91 %", "nothing measures the accuracy: add --accuracy"),
        ("fast.peak < 1", "nothing searches the peak: add --find-peak"),
        ("fast[64].p99 > 1s", "no run has the load '64', only 8 in flight, 500 calls/s: add it to --concurrency"),
        ("fast.p99 > 2 * slow[64].p99", "no run has the load '64'"),
        ("slow.p99 > baseline", "main.json has no run of slow at 8 in flight"),
    ],
)
def test_a_condition_that_nothing_can_judge_is_refused_before_the_run(condition: str, message: str) -> None:
    gate = parse(condition, NAMES, has_baseline=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        require_judgeable(gate, SCENARIO, accuracy=False, baseline=BASELINE)


@pytest.mark.parametrize(
    ("condition", "scenario", "message"),
    [
        ("fast.p99 > baseline", SEARCH_FROM_RATE, "runs at rates of its own: leave out --rate, or compare the peak"),
        ("slow.p99 > 2 * fast.p99", SEARCH_FROM_RATE, "runs at rates of its own: leave out --rate"),
        ("fast.peak < 0.5 * fast.throughput", SEARCH, "name the load of the other figure: fast[LOAD].throughput"),
    ],
)
def test_a_comparison_of_what_a_search_finds_with_other_runs_is_refused_before_the_run(
    condition: str, scenario: Scenario, message: str
) -> None:
    gate = parse(condition, NAMES, has_baseline=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        require_judgeable(gate, scenario, accuracy=False, baseline=BASELINE)


@pytest.mark.parametrize(
    ("condition", "scenario"),
    [
        ("fast.accuracy < baseline", SCENARIO),
        ("fast[8].p99 > 1s", SCENARIO),
        ("fast[500 calls/s].p99 > baseline", SCENARIO),
        ("fast.peak < baseline", SEARCH),
        ("fast[120].p99 > 1s", Scenario(SCENARIO.targets)),  # may be the rate that is derived from the peaks
    ],
)
def test_a_condition_that_the_run_can_judge_is_accepted(condition: str, scenario: Scenario) -> None:
    require_judgeable(parse(condition, NAMES, has_baseline=True), scenario, accuracy=True, baseline=BASELINE)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("slow.accuracy < baseline", "main.json has no accuracy of slow"),
        ("fast[8].p99 > baseline", "main.json has only an INVALID run of fast at 8 in flight"),
    ],
)
def test_a_baseline_without_the_figure_is_refused_before_the_run(condition: str, message: str) -> None:
    restarted = replace(BASELINE, runs=tuple(replace(run, restarted=True) for run in BASELINE.runs))
    gate = parse(condition, NAMES, has_baseline=True)
    with pytest.raises(ValueError, match=message):
        require_judgeable(gate, SCENARIO, accuracy=True, baseline=restarted)


def test_the_other_figure_may_have_a_load_of_its_own() -> None:
    results = full_results()
    same, other = (
        judge(parse(f"slow[8].throughput < {figure}.throughput", NAMES, has_baseline=False), results)
        for figure in ("fast", "fast[1,450]")
    )
    assert "the bound 1,000/s" in same.sentence
    assert "the bound 1,450/s" in other.sentence


def test_a_load_is_named_by_its_amount_or_in_words() -> None:
    results = two_models()
    for load in ("8", "8 in flight"):
        assert judge(parse(f"fast[{load}].p99 > 1us", NAMES, has_baseline=False), results).failed
    assert str(ClosedLoop(8)) == "8 in flight"


def default_loads(rate: float, slow_load: Load | None = None) -> Results:
    """The runs of a test without --concurrency and --rate; under `slow_load` a call takes twice as long."""
    loads: list[Load] = [*map(ClosedLoop, DEFAULT_CONCURRENCIES), OpenLoop(rate)]
    runs = []
    for load in loads:
        factor = 2 if load == slow_load else 1
        runs.append(Run((block("fast", load, (0.001 * factor,) * (1000 // factor)),), 1))
    return results(*runs)


@pytest.mark.parametrize("condition", ["fast.throughput < 0.95 * baseline", "fast.p99 > 1.5 * baseline"])
def test_a_baseline_with_another_derived_rate_is_compared_under_the_other_loads(condition: str) -> None:
    gate = parse(condition, NAMES, has_baseline=True)
    baseline = replace(BASELINE, runs=default_loads(1_800.0).runs)
    same = default_loads(1_700.0)
    require_judgeable(gate, same.scenario, accuracy=False, baseline=baseline)
    passed = judge(gate, same, baseline)
    assert not passed.failed
    assert passed.sentence.count("in flight") == len(DEFAULT_CONCURRENCIES)
    assert passed.sentence.endswith("; 1,700 calls/s is left out, a rate that each test finds for itself")
    slower = judge(gate, default_loads(1_700.0, slow_load=ClosedLoop(64)), baseline)
    assert slower.failed
    assert "at 64 in flight is" in slower.sentence


def test_a_rate_that_both_tests_found_is_compared() -> None:
    gate = parse("fast.p99 > 1.5 * baseline", NAMES, has_baseline=True)
    baseline = replace(BASELINE, runs=default_loads(1_700.0).runs)
    slower = judge(gate, default_loads(1_700.0, slow_load=OpenLoop(1_700.0)), baseline)
    assert slower.failed
    assert "at 1,700 calls/s" in slower.sentence


def test_a_rate_that_is_derived_for_all_targets_is_compared_between_them() -> None:
    outcome = judge(parse("fast.p99 > 0.5 * slow.p99", NAMES, has_baseline=False), two_models())
    assert "at 500 calls/s" in outcome.sentence


def test_comparisons_leave_out_the_peak_which_is_another_rate_for_each_target_and_in_each_test() -> None:
    in_flight = ClosedLoop(PEAK_CONCURRENCY)
    loads = (("fast", in_flight), ("slow", in_flight), ("fast", OpenLoop(1450.0)), ("slow", OpenLoop(400.0)))
    runs = tuple(Run((block(name, load, (0.001,) * 1000),), 1) for name, load in loads)
    searched, baseline = results(*runs, scenario=SEARCH), replace(BASELINE, runs=runs[:2])
    for condition in ("fast.throughput < 0.95 * baseline", "fast.throughput < 0.95 * slow.throughput"):
        outcome = judge(parse(condition, NAMES, has_baseline=True), searched, baseline)
        assert not outcome.failed, outcome.sentence
        assert outcome.sentence.endswith("; 1,450 calls/s is left out, a rate that each test finds for itself")
    alone = parse("fast.max > 1000 * fast.p50", NAMES, has_baseline=False)
    assert "at 1,450 calls/s" in judge(alone, searched).sentence
