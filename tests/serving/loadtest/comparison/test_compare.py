import pytest

from hangtag.serving.loadtest.comparison.compare import compare, compare_targets
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from tests.serving.loadtest.builders import block, results, two_models


def test_the_first_model_is_the_baseline_under_every_load() -> None:
    closed, opened = compare_targets(two_models())
    assert closed.sentence == (
        "slow's p99 at 8 in flight is 4.0 times fast's (95 %: 4.0 to 4.0); "
        "its throughput is 0.25 times fast's (95 %: 0.25 to 0.25)."
    )
    assert opened.sentence == "slow's p99 at 500 calls/s is 4.0 times fast's (95 %: 4.0 to 4.0)."
    assert closed.p50.estimate == pytest.approx(4.0, rel=0.02)


def test_a_difference_within_the_interval_is_not_claimed() -> None:
    load = OpenLoop(100.0)
    noisy = [(0.0010, 0.0011), (0.0012, 0.0011), (0.0011, 0.0012), (0.0010, 0.0010)]
    runs = [Run(tuple(block(name, load, (a if name == "a" else b,)) for a, b in noisy), 1) for name in "ab"]
    (comparison,) = compare_targets(results(*runs))
    assert comparison.sentence.startswith("b's p99 at 100 calls/s shows no difference to a's (95 %: ")


def test_an_interval_that_is_too_wide_is_not_taken_for_no_difference() -> None:
    load = OpenLoop(100.0)
    noisy = [(0.001, 0.003), (0.002, 0.001), (0.003, 0.002), (0.001, 0.001)]
    runs = [Run(tuple(block(name, load, (a if name == "a" else b,)) for a, b in noisy), 1) for name in "ab"]
    (comparison,) = compare_targets(results(*runs))
    assert comparison.sentence.startswith(
        "b's p99 at 100 calls/s cannot be compared with a's: the blocks vary too much (95 %: "
    )


def test_one_block_has_a_ratio_but_no_interval() -> None:
    runs = [Run((block(name, ClosedLoop(1), (seconds,)),), 1) for name, seconds in (("a", 0.001), ("b", 0.002))]
    (comparison,) = compare_targets(results(*runs))
    assert comparison.sentence == "b's p99 at 1 in flight is 2.0 times a's; its throughput is 1.0 times a's."


def test_an_interrupted_test_compares_the_rounds_that_both_ran() -> None:
    load = ClosedLoop(1)
    longer = Run((block("a", load), block("a", load), block("a", load, (9.0,))), 1)
    shorter = Run((block("b", load), block("b", load)), 1)
    (comparison,) = compare_targets(results(longer, shorter))
    assert comparison.p99.estimate == pytest.approx(1.0)


def test_without_both_models_there_is_nothing_to_compare() -> None:
    alone = Run((block("b", ClosedLoop(1)),), 1)
    baseline = Run((block("a", ClosedLoop(2)),), 1)
    assert compare_targets(results(baseline, alone)) == ()
    assert compare_targets(results()) == ()


def test_a_model_that_answered_nothing_is_not_compared() -> None:
    runs = [Run((block("a", ClosedLoop(1)),), 1), Run((block("b", ClosedLoop(1), (), failed=3),), 1)]
    assert compare_targets(results(*runs)) == ()


def test_a_run_with_missing_blocks_is_invalid() -> None:
    blocks = (block("a", ClosedLoop(1)),) * 2
    assert Run(blocks, 1, planned_blocks=2).valid
    (problem,) = Run(blocks, 1, planned_blocks=5).problems
    assert problem.startswith("it ended too early")


def test_invalid_runs_are_not_compared() -> None:
    failed = Run((block("b", ClosedLoop(1), failed=1),), 1)
    fine = Run((block("a", ClosedLoop(1)),), 1)
    (comparison,) = compare_targets(results(fine, failed))
    assert comparison.sentence == "b and a at 1 in flight cannot be compared: b is INVALID."
    (comparison,) = compare_targets(results(failed, Run((block("c", ClosedLoop(1), failed=1),), 1)))
    assert comparison.sentence.endswith("cannot be compared: c and b are INVALID.")


def test_throughputs_that_the_generator_limited_are_not_compared() -> None:
    runs = [Run((block(name, ClosedLoop(1), (0.001,) * 5),), 1, ceiling=5.1) for name in "ab"]
    (comparison,) = compare_targets(results(*runs))
    assert comparison.sentence == (
        "b's p99 at 1 in flight is 1.0 times a's; "
        "their throughputs cannot be compared: the generator was the bottleneck."
    )


def test_saved_runs_of_one_target_are_compared() -> None:
    now, before = (Run((block("a", ClosedLoop(1), (s,)), block("a", ClosedLoop(1), (s,))), 1) for s in (0.004, 0.001))
    comparison = compare(now, before, files=("the run in b.json", "the run in a.json"))
    assert comparison.sentence == (
        "a's p99 at 1 in flight is 4.0 times what it was (95 %: 4.0 to 4.0); "
        "its throughput shows no difference to what it was (95 %: 1.0 to 1.0 times)."
    )
    failed = Run((block("a", ClosedLoop(1), failed=1),), 1)
    comparison = compare(failed, before, files=("the run in b.json", "the run in a.json"))
    assert comparison.sentence == "a at 1 in flight cannot be compared: the run in b.json is INVALID."


def test_a_comparison_says_that_other_programs_make_it_doubtful() -> None:
    runs = [
        Run((block(name, ClosedLoop(1), others=others), block(name, ClosedLoop(1), others=others)), 1)
        for name, others in (("a", 0.02), ("b", 0.34))
    ]
    (comparison,) = compare_targets(results(*runs))
    assert comparison.meaningful
    assert comparison.sentence.endswith(" Doubtful: other programs took up to 34% of the CPUs meanwhile.")
