"""The benchmarks' tables, the marks of their page, and each command for a moment on the real server."""

import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from studies.loadtest import agreement, generators, report, results
from studies.loadtest.tools import PEERS

ROOT = Path(__file__).parents[3]


def said(throughput: float, p50: float, bottleneck: bool = False) -> dict[str, float | bool]:
    return {"throughput": throughput, "p50": p50, "bottleneck": bottleneck}


@pytest.fixture
def document() -> dict[str, Any]:
    """What the commands write."""
    environment = {"CPU": "a processor", "CPUs usable": "2 of 2", "grpcio": "1.0"}
    about = {"command": "make it", "date": "2026-01-02", "environment": environment}
    tools = {
        "hangtag": [said(500, 0.002), said(900, 0.002), said(510, 0.002, bottleneck=True)],
        "h2load": [said(550, 0.001), said(600, 0.001), said(500, 0.001)],
    }
    ways = {
        "hangtag": {
            "8": [{"throughput": 100.0, "per_cpu_second": 120.0}],
            "64": [{"throughput": 200.0, "per_cpu_second": 210.0}],
        },
        "sync": {
            "8": [{"throughput": 150.0, "per_cpu_second": 160.0}],
            "64": [{"throughput": 50.0, "per_cpu_second": 60.0}],
        },
    }
    return {
        "apart": about | {"tools": {"h2load": "9"}, "concurrency": 8, "models": {"cnn": tools}},
        "generators on null": about | {"ways": ways},
    }


def test_the_medians_are_compared(document: dict[str, Any]) -> None:
    assert report.ratios(document["apart"], "cnn") == {
        ("h2load", "throughput"): pytest.approx(510 / 550),
        ("h2load", "p50"): pytest.approx(2.0),
    }
    _, ours, theirs = report.agreement_rows(document["apart"])
    assert ours == ["cnn", "hangtag", "510", "2.00 ms", "the bottleneck, it says, in 1 of 3", ""]
    assert theirs == ["cnn", "h2load", "550", "1.00 ms", "0.927\N{MULTIPLICATION SIGN}", "2.00\N{MULTIPLICATION SIGN}"]


def test_each_way_is_taken_at_its_best(document: dict[str, Any]) -> None:
    _, ours, sync = report.generator_rows(document["generators on null"])
    assert ours == ["hangtag", "200", "64", "1.00\N{MULTIPLICATION SIGN}", "210"]
    assert sync == ["sync", "150", "8", "0.750\N{MULTIPLICATION SIGN}", "160"]


def test_the_page_gets_the_figures_between_its_marks_and_keeps_the_rest(document: dict[str, Any]) -> None:
    written = report.written_into(f"before\n{report.BEGIN}old\n{report.END}after\n", document)
    assert written.startswith(f"before\n{report.BEGIN}8 in flight, the server on one half of the CPUs")
    assert written.endswith(f"{report.END}after\n")
    assert "old" not in written
    assert "2026-01-02 on a processor, 2 of 2 CPUs, grpcio 1.0, h2load 9, `make it`" in written
    assert report.written_into(written, document) == written
    with pytest.raises(click.ClickException, match="two marks are missing"):
        report.written_into("no place", document)


def test_the_page_is_what_the_results_say() -> None:
    page = (ROOT / "docs/loadtest.md").read_text()
    assert page == report.written_into(page, json.loads(results.FILE.read_text())), "run 'make docs'"


def test_a_part_is_kept_beside_the_others(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for part, number in (("a", 1), ("b", 2), ("a", 3)):
        results.keep(part, {"number": number}, file)
    assert json.loads(file.read_text()) == {"a": {"number": 3}, "b": {"number": 2}}


@pytest.mark.parametrize("place", ["apart", "together"])
def test_the_tools_are_compared_on_the_real_server(tmp_path: Path, place: str) -> None:
    for program in (PEERS / "perf_analyzer", "h2load"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: run 'make test', which installs it")
    file = tmp_path / "results.json"
    quick = ["--models", str(ROOT / "models"), "--rounds", "1", "--seconds", "1", "--out", str(file)]
    result = CliRunner().invoke(agreement.main, ["--place", place, *quick])
    # Whether they agree takes a machine that does nothing else.
    assert result.exit_code == 0 or "more than 10%" in result.stderr, result.output
    found = json.loads(file.read_text())[place]
    for tools in found["models"].values():
        assert all(figures["throughput"] > 10 and 0 < figures["p50"] < 1 for (figures,) in tools.values())
    assert f"--place {place}" in found["command"]


@pytest.mark.parametrize("server", ["null", "lstm"])
def test_every_way_makes_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "results.json"
    quick = ["--rounds", "1", "--seconds", "0.1", "--concurrency", "4", "--out", str(file)]
    result = CliRunner().invoke(generators.main, ["--server", server, *quick], catch_exceptions=False)
    assert result.exit_code == 0
    ways = json.loads(file.read_text())[f"generators on {server}"]["ways"]
    assert list(ways) == ["hangtag", "queue", "futures", "aio", "sync"]
    assert all(each["4"][0]["throughput"] > 10 for each in ways.values())
