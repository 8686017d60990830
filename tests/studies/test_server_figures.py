"""What the pages about servers say follows from the figures of the recorded rounds."""

import copy
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from studies import results
from studies.gpu.run import problem
from studies.hosts.caller import NO_HOST, OK, Call
from studies.hosts.faults import FAULTS
from studies.hosts.figures import Span, figures
from studies.hosts.promises import BALANCED, CALLERS, PROMISES
from studies.hosts.report import promise_rows
from studies.results import Line
from studies.routes.goals import GOALS as ROUTE_GOALS
from studies.routes.report import goal_rows
from studies.server import capacity, h2load, report
from studies.server.capacity import Measured
from studies.server.goals import GOALS, Goal


def closed(samples_per_s: float, p50_ms: float = 1.0) -> dict[str, float]:
    return {"samples_per_s": samples_per_s, "p50_ms": p50_ms, "p99_ms": 2.0, "cpus": 1.0, "mean_batch": 3.0}


def system(rate: float, share: float) -> Line:
    model = {load: closed(rate * share) for load in ("4", "16", "64")}
    model |= {"1": closed(100.0, 0.2 / share), "batch": closed(1900.0)}
    overload = {"in_time_share": 0.9, "gained_mb": 60.0, "kept_mb": 1.0, "recovery_s": 0.1}
    start = {"pss_mb": 140.0, "seconds_to_ready": 1.5}
    return {"lstm": model, "cnn": model | {"poisson": {"share": 0.7}, "overload": overload}, "start": start}


def rounds(*rates: float, others: float = 0.01) -> Line:
    """A measurement with a round for each rate of native's calls a second; bare ONNX Runtime does 2,000."""
    shares = {"native": 1.0, "grpc": 0.5, "hot": 0.6, "ordinary": 0.25, "triton": 0.7}
    bare = {model: {"1": {"samples_per_s": 900.0, "p50_ms": 1.0}, "batch": closed(2000.0)} for model in ("lstm", "cnn")}
    conditions = {
        "date": "2026-01-01", "command": "python -m studies server run", "processor": "some", "cpus": 2,
        "commit": "0123456789abcdef", "versions": {"grpcio": "1"},
    }  # fmt: skip
    return {
        "conditions": conditions,
        "rounds": [
            {name: copy.deepcopy(system(rate, share)) for name, share in shares.items()}
            | {"bare": bare, "others": others}
            for rate in rates
        ],
    }


def test_a_goal_is_the_median_of_each_rounds_own_ratio() -> None:
    rate = Goal("lstm", "16", "samples_per_s", 1.5, "hot")
    measured = rounds(1000, 1200, 1900)
    measured["rounds"][2]["hot"]["lstm"]["16"]["samples_per_s"] = 950.0
    values = rate.values(measured)
    assert values == pytest.approx([1.667, 1.667, 2.0], abs=1e-3)
    assert rate.reached(values)
    assert not Goal("lstm", "16", "samples_per_s", 1.7, "hot").reached(values)
    del measured["rounds"][0]["hot"]
    assert len(rate.values(measured)) == 2
    # A share of bare ONNX Runtime is of its batches, whatever the load.
    assert Goal("lstm", "64", "samples_per_s", 0.6, "bare").values(rounds(1000, 1200)) == [0.5, 0.6]
    latency = Goal("cnn", "1", "p50_ms", 0.62, "triton")
    assert statistics.median(latency.values(rounds(1000))) == 0.7
    assert (latency.reached([0.7]), latency.reached([0.62])) == (False, True)
    memory = Goal(None, "start", "pss_mb", 150)
    assert memory.reached(memory.values(rounds(1)))
    assert all(len(goal.values(rounds(1000))) == 1 for goal in GOALS)


def test_the_page_says_that_others_used_the_machine_and_what_was_not_measured(tmp_path: Path) -> None:
    measured = rounds(1000, others=0.21)
    del measured["rounds"][0]["triton"]
    turns = [{"run": f"round {number}"} | turn for number, turn in enumerate(measured["rounds"])]
    results.write(tmp_path / "results.jsonl", [{"run": "conditions"} | measured["conditions"], *turns])
    text = report.part(tmp_path / "results.jsonl")
    assert "**The machine was busy**: other programs took 21 to 21 %" in text
    assert "| lstm, 16 in flight, images/s | native | ≥ 1.4 x triton | not measured |" in text
    assert "| lstm, 16 in flight, images/s | native | ≥ 1.5 x hot | 1.67 | " in text


def test_the_capacity_table_leaves_room_and_a_replica_to_spare() -> None:
    measured = Measured("cnn", calls_per_second=1_000, images_per_second=2_000, cpus=2)
    # 600 calls/s each, and one more that may be gone.
    assert [measured.replicas(rate) for rate in (1, 600, 601, 6_000)] == [2, 2, 3, 11]
    assert measured.row(6_000)[:6] == ("cnn", "6,000", "11", "22", "6", "12")
    assert 28 * 28 < capacity.request_bytes("cnn") < 28 * 28 + 80
    # The median of the rounds. 1,000,000 / (20,000 x 0.6) = 83.3: 84, and one to spare, of 2 CPUs each.
    # In calls of 64 images 1,900 a second: 1,000,000 / (1,900 x 0.6) = 877.2.
    text = capacity.part(rounds(10_000, 30_000, 20_000))
    assert "| lstm | 1,000,000 | 85 | 170 | 879 | 1,758 | 6.6 Gbit/s |" in text


def test_h2loads_output_is_read_and_a_call_that_was_refused_is_an_error(tmp_path: Path) -> None:
    output = "finished in 2.00s, 5.00 req/s, 1KB/s\nrequests: 10 total, 10 started, {0} done, {0} succeeded, 0 failed"
    (tmp_path / "log").write_text("2000000\t200\t4000\n1000000\t200\t1000\n1500000\t200\t2000\n")
    outcome = h2load._read(output.format(10), tmp_path / "log")
    assert (outcome.per_second, outcome.p50_ms) == (5, 2)
    assert outcome.starts == [0, 0.5, 1]
    assert outcome.latencies == [0.001, 0.002, 0.004]
    with pytest.raises(click.ClickException, match="not all answered"):
        h2load._read(output.format(9), tmp_path / "log")


LOAD = {
    "lstm": {"calls_per_s": 8000, "p50_ms": 0.5, "p99_ms": 1, "cpu_us": 200},
    "route": {"calls_per_s": 5000, "p50_ms": 0.6, "p99_ms": 3, "cpu_us": 400},
    "cnn": {"calls_per_s": 1600, "p50_ms": 1.0, "p99_ms": 4, "cpu_us": 1200},
}
PRIMARY = {"calls_per_s": 2000, "p50_ms": 1, "p99_ms": 2, "cpu_us": 200, "copied": 0.9}
OF_ROUTES: Line = {
    "run": "round 1",
    "cascade": dict.fromkeys(("1", "4", "16", "64"), LOAD),
    "shadow": {run: dict(PRIMARY) for run in ("alone", "shadowed", "busier")},
    "accuracy": {"lstm": 0.93, "route": 0.9462, "cnn": 0.9467, "images": 10000},
    "split": {"calls": 100_000, "counts": {"lstm": 90_100, "lstm-before": 9_900}, "deviations": 1.05},
    "others": 0.0,
}


@pytest.mark.parametrize(
    ("spoil", "missed"),
    [
        (lambda line: line["accuracy"].update(route=0.9456), 0),
        (lambda line: line["cascade"]["64"]["route"].update(calls_per_s=3900), 1),
        (lambda line: line["cascade"]["1"]["route"].update(p50_ms=0.71), 2),
        (lambda line: line["split"].update(deviations=3.3), 3),
        (lambda line: line["shadow"]["shadowed"].update(p99_ms=2.3), 4),
    ],
)
def test_each_goal_of_routes_is_judged_by_its_own_figure(spoil: Callable[[Line], None], missed: int) -> None:
    assert [row[-1] for row in goal_rows([OF_ROUTES])[1:]] == ["yes"] * len(ROUTE_GOALS)
    line = copy.deepcopy(OF_ROUTES)
    spoil(line)
    verdicts = [row[-1] for row in goal_rows([line])[1:]]
    assert [number for number, verdict in enumerate(verdicts) if verdict == "no"] == [missed]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, ""),
        ({"notes": {"no_cuda_graphs": "the model has LSTM"}, "way": "graphs"}, ""),
        ({"provider": "CPUExecutionProvider"}, "CUDAExecutionProvider was requested, CPUExecutionProvider obtained"),
        ({"difference": 0.02}, "differs from the CPU by 0.02"),
        ({"difference": math.nan}, "differs from the CPU by nan"),
        ({"notes": {"no_io_binding": "out of memory"}}, "no IO binding: out of memory"),
        ({"notes": {"no_io_binding": "out of memory"}, "way": "plain"}, ""),
        ({"failure": "the process ended with -6: abort"}, "the process ended with -6: abort"),
        ({"skipped": "strings"}, ""),
    ],
)
def test_which_figures_of_a_gpu_are_a_problem(row: Line, expected: str) -> None:
    good = {"model": "m", "way": "bound", "provider": "CUDAExecutionProvider", "difference": 0.001, "notes": {}}
    found = problem(good | row, "cuda")
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


WELL: Line = {
    "calls": 360, "failed": {}, "failed_until_s": 0.0, "slowest_s": 0.2, "overrun_s": 0.0, "refused_s": 0.0,
    "share": 0.0, "back_s": 0.5,
}  # fmt: skip


def test_the_figures_of_a_fault() -> None:
    span = Span(begun=10, struck=11, healed=20, end=30)
    calls = [
        Call(8.0, 8.1, "UNAVAILABLE", NO_HOST),  # before the fault
        Call(9.9, 10.2, "UNAVAILABLE", NO_HOST),  # in flight when it began
        Call(12.0, 14.5, "DEADLINE_EXCEEDED", NO_HOST),
        Call(13.0, 13.3, "RESOURCE_EXHAUSTED", NO_HOST),
        Call(14.0, 14.1, OK, 0),
        Call(15.0, 15.1, OK, 1),
        *(Call(20 + second / 10, 20 + second / 10, OK, 0) for second in range(25)),
        *(Call(22.5 + second / 10, 22.5 + second / 10, OK, second % 3) for second in range(20)),
        Call(31.0, 31.1, "UNAVAILABLE", NO_HOST),  # after the observation
    ]
    noticed = figures(calls, host=1, timeout=2.0, span=span)
    assert noticed.calls == 50
    assert noticed.failed == {"UNAVAILABLE": 1, "DEADLINE_EXCEEDED": 1, "RESOURCE_EXHAUSTED": 1}
    seconds = (noticed.failed_until_s, noticed.slowest_s, noticed.overrun_s, noticed.refused_s, noticed.share)
    assert seconds == pytest.approx((2, 2.5, 0.5, 0.3, 0.5))
    assert noticed.back_s == pytest.approx(2.4, abs=0.15)
    others = [Call(20 + second / 10, 20 + second / 10, OK, 0) for second in range(100)]
    assert figures(others, host=1, timeout=2.0, span=span).back_s is None


@pytest.mark.parametrize(
    ("fault", "caller", "spoiled", "promise"),
    [
        ("cut", "Client", {"failed": {"UNAVAILABLE": 1}}, 0),
        ("killed", BALANCED, {"failed_until_s": 0.2}, 1),
        ("cut", "proxy, no retries", {"failed_until_s": 6.1}, 2),
        ("lossy", BALANCED, {"failed": {"DEADLINE_EXCEEDED": 1}}, 3),
        ("full", "AsyncClient", {"refused_s": 0.3}, 4),
        ("full", "proxy", {"failed": {"RESOURCE_EXHAUSTED": 9, "UNAVAILABLE": 1}}, 5),
        ("slow", "proxy", {"back_s": 10.1}, 6),
        ("slow", "proxy", {"back_s": None}, 6),
        ("cut", "AsyncClient, 0.4 s deadline", {"overrun_s": 0.2}, 7),
    ],
)
def test_each_promise_about_hosts_is_judged_by_its_own_figure(
    fault: str, caller: str, spoiled: Line, promise: int
) -> None:
    lines: dict[str, Any] = {
        name: {"run": name, "seconds": 5, "callers": {caller: dict(WELL) for caller in CALLERS}} for name in FAULTS
    }
    lines["full"]["callers"]["Client"]["failed"] = {"RESOURCE_EXHAUSTED": 30}
    assert [row[-1] for row in promise_rows(lines)[1:]] == ["yes"] * len(PROMISES)
    lines[fault]["callers"][caller] |= spoiled
    verdicts = [row[-1] for row in promise_rows(lines)[1:]]
    assert [number for number, verdict in enumerate(verdicts) if verdict == "no"] == [promise]
