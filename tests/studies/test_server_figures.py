"""What is made of figures that no recorded results have: the tests of the pages show what is made of the others."""

import math
from pathlib import Path

import click
import pytest

from studies import results
from studies.gpu.run import problem
from studies.hosts.caller import NO_HOST, OK, Call
from studies.hosts.figures import Span, figures
from studies.hosts.promises import BALANCED, CALLERS, NETWORK_FAULTS
from studies.hosts.report import promise_rows
from studies.results import Line
from studies.server import h2load, report


def test_the_page_says_that_others_used_the_machine_and_what_was_not_measured(tmp_path: Path) -> None:
    lines = results.read(report.RESULTS)
    for run in lines.keys() - {"conditions"}:
        lines[run]["others"] = 0.21
        lines[run].pop("triton", None)
    results.write(tmp_path / "results.jsonl", lines.values())
    text = report.part(tmp_path / "results.jsonl")
    assert "**The machine was busy**: other programs took 21 to 21 %" in text
    assert "| lstm, 16 in flight, images/s | native | ≥ 1.4 x triton | not measured |" in text


def test_h2loads_output_is_read_and_a_call_that_was_refused_is_an_error(tmp_path: Path) -> None:
    output = "finished in 2.00s, 5.00 req/s, 1KB/s\nrequests: 10 total, 10 started, {0} done, {0} succeeded, 0 failed"
    (tmp_path / "log").write_text("2000000\t200\t4000\n1000000\t200\t1000\n1500000\t200\t2000\n")
    outcome = h2load._read(output.format(10), tmp_path / "log")
    assert (outcome.per_second, outcome.p50_ms) == (5, 2)
    assert outcome.starts == [0, 0.5, 1]
    assert outcome.latencies == [0.001, 0.002, 0.004]
    with pytest.raises(click.ClickException, match="not all answered"):
        h2load._read(output.format(9), tmp_path / "log")


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
    reason = problem(good | row, "cuda")
    assert reason.startswith(expected)
    assert bool(reason) == bool(expected)


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
    good: Line = {"failed": {}, "failed_until_s": 0.0, "refused_s": 0.0, "overrun_s": 0.0, "back_s": 1.0}
    lines: dict[str, Line] = {
        name: {"callers": {each: dict(good) for each in CALLERS}} for name in (*NETWORK_FAULTS, "full")
    }
    assert {row[-1] for row in promise_rows(lines)[1:]} == {"yes"}
    lines[fault]["callers"][caller] |= spoiled
    verdicts = [row[-1] for row in promise_rows(lines)[1:]]
    assert [number for number, verdict in enumerate(verdicts) if verdict == "no"] == [promise]
