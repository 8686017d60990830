"""The tables of docs/loadtest.md, and each benchmark for a moment on the real server."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from studies import results
from studies.loadtest import agreement, generators, report
from studies.loadtest.tools import PEERS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def figures(throughput: float, p50: float, bottleneck: bool = False) -> dict[str, float | bool]:
    return {"throughput": throughput, "p50": p50, "bottleneck": bottleneck, "cpu": 1e-4, "server_cpu": 0.002}


@pytest.fixture
def document() -> dict[str, Any]:
    """What the commands write."""
    environment = {"CPU": "a processor", "CPUs usable": "2 of 2", "grpcio": "1.0"}
    about = {"command": "make it", "date": "2026-01-02", "environment": environment}
    tools = {
        "hangtag": [figures(500, 0.002), figures(900, 0.002), figures(510, 0.002, bottleneck=True)],
        "h2load": [figures(550, 0.001), figures(600, 0.001), figures(500, 0.001)],
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
        "apart": about | {"tools": {"h2load": "9"}, "concurrency": 8, "others": 0.34, "models": {"cnn": tools}},
        "generators on null": about | {"ways": ways},
    }


def test_each_round_is_compared_and_the_median_counts(document: dict[str, Any]) -> None:
    assert report.ratios(document["apart"], "cnn") == {
        ("h2load", "throughput"): pytest.approx(510 / 500),
        ("h2load", "p50"): pytest.approx(2.0),
    }
    _, ours, theirs = report.agreement_rows(document["apart"])
    assert ours == ["cnn", "hangtag", "510", "2.00 ms", "100 µs", "2.00 ms", "reports itself as a limit in 1 of 3", ""]
    ratios = ["1.02\N{MULTIPLICATION SIGN}", "2.00\N{MULTIPLICATION SIGN}"]
    assert theirs == ["cnn", "h2load", "550", "1.00 ms", "100 µs", "2.00 ms", *ratios]


def test_it_reports_itself_as_a_limit_when_most_rounds_say_so(document: dict[str, Any]) -> None:
    line = document["apart"]
    assert not report.says_that_it_is_a_limit(line, "cnn")
    line["models"]["cnn"]["hangtag"][0]["bottleneck"] = True
    assert report.says_that_it_is_a_limit(line, "cnn")


def test_each_way_is_taken_at_its_best(document: dict[str, Any]) -> None:
    _, ours, sync = report.generator_rows(document["generators on null"])
    assert ours == ["hangtag", "200", "64", "1.00\N{MULTIPLICATION SIGN}", "210"]
    assert sync == ["sync", "150", "8", "0.750\N{MULTIPLICATION SIGN}", "160"]


def test_the_page_shows_every_measurement_with_its_conditions(document: dict[str, Any], tmp_path: Path) -> None:
    results.write(tmp_path / "results.jsonl", ({"run": run} | line for run, line in document.items()))
    text = report.part(tmp_path / "results.jsonl")
    assert "8 in flight, the server on one half of the CPUs" in text
    assert (
        "2026-01-02 on a processor, 2 of 2 CPUs, grpcio 1.0, h2load 9, other programs took 34% of the CPUs, `make"
        in text
    )
    assert "Ways to make calls from Python, on a server that does nothing" in text
    assert "| sync | 150 | 8 |" in text


@pytest.mark.parametrize(("place", "models"), [("apart", ("cnn",)), ("together", ("cnn", "lstm"))])
def test_the_tools_are_compared_on_the_real_server(
    lstm_and_cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, models: tuple[str, ...]
) -> None:
    for program in (PEERS / "perf_analyzer", "h2load"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: run 'make test', which installs it")
    monkeypatch.setattr(agreement, "MODELS", models)
    file = tmp_path / "results.jsonl"
    quick = ["--rounds", "1", "--seconds", "0.2", "--concurrency", "2", "--out", str(file)]
    result = CliRunner().invoke(agreement.main, ["--place", place, "--models", str(lstm_and_cnn), *quick])
    # Whether they agree takes a machine that does nothing else.
    assert result.exit_code == 0 or "more than 10%" in result.stderr, result.output
    line = results.read(file)[place]
    assert tuple(line["models"]) == models
    for tools in line["models"].values():
        assert all(figures["throughput"] > 10 and 0 < figures["p50"] < 1 for (figures,) in tools.values())
        assert all(figures["server_cpu"] > 0 for (figures,) in tools.values())
        assert all(tools[name][0]["cpu"] > 0 for name in ("hangtag", "h2load"))
    assert f"--place {place}" in line["command"]


@pytest.mark.parametrize(
    ("server", "others"), [("null", ("queue", "futures", "aio", "sync")), ("lstm", ("aio",))], ids=["null", "lstm"]
)
def test_every_way_makes_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, others: tuple[str, ...]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(generators, "WAYS", {way: generators.WAYS[way] for way in others})
    file = tmp_path / "results.jsonl"
    quick = ["--rounds", "1", "--seconds", "0.1", "--concurrency", "4", "--out", str(file)]
    result = CliRunner().invoke(generators.main, ["--server", server, *quick], catch_exceptions=False)
    assert result.exit_code == 0
    ways = results.read(file)[f"generators on {server}"]["ways"]
    assert list(ways) == ["hangtag", *others]
    assert all(each["4"][0]["throughput"] > 10 for each in ways.values())
