"""What is made of the calls of a run: figures, promises that are kept or not, and tables."""

import copy
from pathlib import Path

import pytest
from click.testing import CliRunner

from studies import results
from studies.hosts import network
from studies.hosts.caller import NO_HOST, OK, Call
from studies.hosts.faults import FAULTS
from studies.hosts.figures import Span, figures
from studies.hosts.promises import BALANCED, CALLERS, PROMISES
from studies.hosts.report import part, promise_rows
from studies.hosts.run import main
from studies.results import Line

SPAN = Span(begun=10, struck=11, healed=20, end=30)
WELL: Line = {
    "calls": 360,
    "failed": {},
    "failed_until_s": 0.0,
    "slowest_s": 0.2,
    "overrun_s": 0.0,
    "refused_s": 0.0,
    "share": 0.0,
    "back_s": 0.5,
}


def faults() -> dict[str, Line]:
    """A run in which everything went well."""
    return {
        name: {"run": name, "seconds": 5, "callers": {caller: copy.deepcopy(WELL) for caller in CALLERS}}
        for name in FAULTS
    }


def test_the_figures_of_a_fault() -> None:
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
    noticed = figures(calls, host=1, timeout=2.0, span=SPAN)
    assert noticed.calls == 50
    assert noticed.failed == {"UNAVAILABLE": 1, "DEADLINE_EXCEEDED": 1, "RESOURCE_EXHAUSTED": 1}
    assert noticed.failed_until_s == pytest.approx(2)
    assert noticed.slowest_s == pytest.approx(2.5)
    assert noticed.overrun_s == pytest.approx(0.5)
    assert noticed.refused_s == pytest.approx(0.3)
    assert noticed.share == pytest.approx(0.5)
    assert noticed.back_s == pytest.approx(2.4, abs=0.15)


def test_a_host_that_gets_no_more_calls_is_never_back() -> None:
    calls = [Call(20 + second / 10, 20 + second / 10, OK, 0) for second in range(100)]
    assert figures(calls, host=1, timeout=2.0, span=SPAN).back_s is None


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
def test_each_promise_is_judged_by_its_own_figure(fault: str, caller: str, spoiled: Line, promise: int) -> None:
    lines = faults()
    lines["full"]["callers"]["Client"]["failed"] = {"RESOURCE_EXHAUSTED": 30}
    assert [row[-1] for row in promise_rows(lines)[1:]] == ["yes"] * len(PROMISES)
    lines[fault]["callers"][caller] |= spoiled
    verdicts = [row[-1] for row in promise_rows(lines)[1:]]
    assert [number for number, verdict in enumerate(verdicts) if verdict == "no"] == [promise]


def test_the_page_has_a_row_for_each_fault(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    lines = faults()
    lines["cut"]["callers"]["Client"] |= {"failed": {"UNAVAILABLE": 3}, "back_s": None}
    results.write(file, [results.conditions("python -m studies hosts run", {"haproxy": "3.0"}), *lines.values()])
    text = part(file)
    (failures, slowest, back) = (line for line in text.splitlines() if line.startswith("| cable cut; 5 s |"))
    assert failures.startswith("| cable cut; 5 s | 3 UNAVAILABLE of 360 | 0 of 360 |")
    assert slowest.startswith("| cable cut; 5 s | 0.20 |")
    assert back.startswith("| cable cut; 5 s | never | 0.5 |")


def test_without_results_the_page_says_how_to_measure(tmp_path: Path) -> None:
    assert "python -m studies hosts run" in part(tmp_path / "none.jsonl")


def test_where_no_hosts_can_be_made_the_command_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    ended = CliRunner().invoke(main, [])
    assert ended.exit_code == 1
    assert "only root may make network namespaces" in ended.output


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    assert "ip, nsenter, unshare not installed" in network.missing()


def test_without_haproxy_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "missing", lambda: "")
    monkeypatch.setenv("PATH", "")
    ended = CliRunner().invoke(main, [])
    assert ended.exit_code == 1
    assert "HAProxy is missing: run 'sudo apt-get install haproxy'." in ended.output
