"""Which conditions --fail-if accepts, and when a condition makes the load test fail."""

import re
from pathlib import Path

import pytest

from tests.serving.loadtest.command import (
    GATES,
    QUICK,
    Loadtest,
    Measured,
    fail_if,
    one_line,
    refused,
    save,
    saved_block,
    saved_run,
    steady,
)

LOADS = ("--concurrency", 8, "--rate", 500)
SEARCH = ("--find-peak", "--target-latency", "10ms")


@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        ("", "TARGET.METRIC"),
        ("fast.p99", "not a condition"),
        ("fast is slow", "TARGET.METRIC"),
        ("fast.speed > 5", "metrics throughput p50 max peak"),
        ("fast.p99 > 5 parsecs", "not a condition"),
        ("other.p99 > 5ms", "'other' fast, slow"),
        ("fast.p99 > 2 * other.p99", "'other'"),
        ("fast.p99 > baseline", "--baseline"),
        ("fast.p99 > 5", "p99 duration unit 5ms"),
        ("fast.max > 5 %", "max duration"),
        ("fast.throughput < 5ms", "throughput number 'ms'"),
        ("fast.accuracy < 91", "accuracy share 91 %"),
        ("fast.error_rate > 1ms", "error_rate share"),
        ("fast.error_rate >= 1", "error_rate share 1 %"),
        ("fast.error_rate > 100 %", "error_rate at most 100 %"),
        ("fast.accuracy < 910 %", "accuracy at most 100 %"),
        ("fast.throughput < 0", "never throughput below 0"),
        ("fast.accuracy < 0 %", "never accuracy below 0"),
        # The run measures nothing that could decide these conditions, so they are refused before the run.
        ("fast.accuracy < 91 %", "--accuracy"),
        ("fast.peak < 1", "--find-peak"),
        ("fast[64].p99 > 1s", "'64' 8 in flight, 500 calls/s --concurrency"),
        ("fast.p99 > 2 * slow[64].p99", "'64'"),
    ],
)
def test_a_condition_that_means_nothing_is_refused_before_the_run(condition: str, facts: str) -> None:
    refused(facts, "fast", "slow", *LOADS, "--fail-if", condition, exit_code=2)


@pytest.mark.parametrize(
    ("condition", "options", "facts"),
    [
        ("slow.p99 > baseline", LOADS, "baseline.json no VALID p99 of slow at 8 in flight"),
        ("slow.accuracy < baseline", (*LOADS, "--accuracy"), "baseline.json no VALID accuracy of slow"),
        ("fast[8].p99 > baseline", LOADS, "baseline.json no VALID p99 of fast at 8 in flight"),
        ("fast.p99 > baseline", (*SEARCH, "--rate", 500), "--rate peak"),
        ("slow.p99 > 2 * fast.p99", (*SEARCH, "--rate", 500), "--rate"),
        ("fast.peak < 0.5 * fast.throughput", SEARCH, "fast[LOAD].throughput"),
    ],
)
def test_a_comparison_that_nothing_can_make_is_refused_before_the_run(
    tmp_path: Path, condition: str, options: tuple[object, ...], facts: str
) -> None:
    saved = save(tmp_path / "baseline.json", saved_run("fast", 8, saved_block([0.001], failed=1)))
    refused(facts, "fast", "slow", *options, "--baseline", saved, "--fail-if", condition, exit_code=2)


def test_a_condition_that_holds_fails_the_test_with_its_figures(complete: tuple[Path, Measured]) -> None:
    _, measured = complete
    assert measured.exit_code == 1
    gates = {gate["condition"]: gate for gate in measured.document["gates"]}
    assert gates.keys() == GATES.keys()
    for condition, (fails, parts) in GATES.items():
        gate = gates[condition]
        assert gate["failed"] is fails, gate
        assert all(part in gate["sentence"] for part in parts.split("...")), gate
        # A narrow terminal breaks the message into several lines.
        assert one_line(f"{'FAILED' if gate['failed'] else 'passed'} {gate['sentence']}") in measured.text
        assert gate["sentence"].startswith(condition if gate["failed"] else f"not {condition}: ")
    slow, fast = (measured.run(name, "closed")["total"]["throughput"] for name in ("slow", "fast"))
    sentence = gates["slow[2].throughput < 0.9 * fast.throughput"]["sentence"].replace(",", "")
    shown = re.search(r"is ([\d.]+)/s the limit is ([\d.]+)/s", sentence)
    assert shown
    assert tuple(map(float, shown.groups())) == pytest.approx((slow, 0.9 * fast), rel=0.01)
    # A condition without a load applies to every load.
    assert all(load in gates["fast.p99 > 60s"]["sentence"] for load in ("2 in flight", "20 calls/s"))
    assert "20 calls/s" not in gates["fast[2].throughput < 0.001 * baseline"]["sentence"]


def test_a_default_run_derives_a_rate_which_gates_compare_where_both_sides_have_it(
    loadtest: Loadtest, tmp_path: Path
) -> None:
    """The default loads are closed loops with 1, 8 and 64 calls in flight, and an open loop at half the lowest peak."""
    closed = [saved_run("fast", load, *steady(0.001)) for load in (1, 8, 64)]
    without = save(tmp_path / "without.json", *closed, saved_run("fast", 1.5, *steady(0.001)))
    gates = ("fast.throughput < 0.0001 * baseline", "fast.p99 > 60s", "fast.p99 > 100000 * slow.p99")
    measured = loadtest("fast", "slow", *QUICK, "--baseline", without, *fail_if(*gates))
    assert [run["load"]["concurrency"] for run in measured.runs if run["target"] == "fast"] == [1, 8, 64, None]
    closed_loops = [run for run in measured.runs if not run["load"]["rate"]]
    slowest = min(
        max(run["total"]["throughput"] for run in closed_loops if run["target"] == name) for name in ("fast", "slow")
    )
    assert 0.4 * slowest <= measured.run("slow", "open")["load"]["rate"] <= 0.5 * slowest
    compared, plain, between = (gate["sentence"] for gate in measured.document["gates"])
    assert not any(gate["failed"] for gate in measured.document["gates"])
    assert compared.count("in flight") == 3
    assert compared.endswith("is left out, because each test chose this rate automatically")
    for sentence in (plain, between):
        assert (sentence.count("in flight"), sentence.count("calls/s")) == (3, 1)
        assert "left out" not in sentence
    # The load test rounds the rate that it chooses to two significant digits, so save a run at every such rate.
    rates = [float(digits * 10**zeros) for digits in range(10, 100) for zeros in range(4)]
    every = (saved_run("fast", rate, saved_block([0.001])) for rate in rates)
    with_all = save(tmp_path / "all.json", *closed, *every)
    measured = loadtest("fast", *QUICK, "--baseline", with_all, "--fail-if", "fast.p99 > 60000 * baseline")
    (gate,) = measured.document["gates"]
    assert (gate["sentence"].count("in flight"), gate["sentence"].count("calls/s at ")) == (3, 0)
    assert " calls/s is " in gate["sentence"]


def test_comparisons_leave_out_the_peak_which_each_test_and_target_finds_for_itself(
    loadtest: Loadtest, tmp_path: Path
) -> None:
    peaks = [{"target": "fast", "rate": 100.0}]
    saved = save(tmp_path / "baseline.json", saved_run("fast", 64, *steady(0.001)), peaks=peaks)
    gates = (
        "fast.throughput < 0.0001 * baseline",
        "fast.throughput < 0.0001 * slow.throughput",
        "fast.max > 1000000 * fast.p50",
        "fast.peak < 0.000001 * baseline",
        "slow.peak > 1000000",
    )
    search = ("--find-peak", "--target-latency", "1s", "--percentile", 50, "--max-duration", "300ms")
    more = ("--max-query-count", 200, "--baseline", saved, *fail_if(*gates))
    measured = loadtest("fast", "slow", *QUICK, *search, *more)
    peak_rate = measured.document["peaks"][0]["rate"]
    *comparisons, alone, again, peak = measured.document["gates"]
    for gate in comparisons:
        assert not gate["failed"], gate
        assert "at 64 in flight" in gate["sentence"]
        assert ("is left out, because each test chose" in gate["sentence"]) is (peak_rate is not None)
    assert ("calls/s" in alone["sentence"]) is (peak_rate is not None)
    # A condition fails if its metric is missing.
    assert again["failed"] is (peak_rate is None)
    assert peak["failed"] is (measured.document["peaks"][1]["rate"] is None)


def test_a_baseline_of_another_machine_is_warned_of(complete: tuple[Path, Measured], loadtest: Loadtest) -> None:
    folder, measured = complete
    assert "WARNING different machines. CPU: a processor and " in one_line(measured.stderr)
    same = loadtest(
        "fast", *QUICK, "--concurrency", 2, "--baseline", folder / "results.json", *fail_if("fast.p99 > 60s")
    )
    assert "WARNING" not in same.stderr
