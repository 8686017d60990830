"""The server benchmark's arithmetic, and each of its loads for a moment."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import cast

import click
import pytest

from hangtag.protos import inference_pb2 as pb
from studies import results
from studies.server import h2load, report
from studies.server.goals import goals
from studies.server.process import Served, served
from studies.server.scenarios import Bench, _recovery
from tests.studies.server.document import lines, measurement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NEEDS_H2LOAD = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")


def test_a_goal_is_the_median_of_each_rounds_own_ratio_to_the_better_bare_way() -> None:
    first, *_ = goals(measurement(1000, 1200, 1900))
    assert first.figures == (0.5, 0.6, 0.95)
    assert first.median == statistics.median(first.figures) == 0.6
    assert first.reached
    assert not goals(measurement(1000))[0].reached


def test_a_bound_is_reached_from_below() -> None:
    by_name = {goal.name: goal for goal in goals(measurement(1000))}
    assert by_name["lstm, 1 in flight, p50"].reached
    assert by_name["memory with every model, PSS"].reached
    assert not by_name["ready in"].reached
    assert by_name["ready in"].text == "≤ 1 s"


def test_the_page_shows_goals_with_their_figures_and_verdicts(tmp_path: Path) -> None:
    results.write(tmp_path / "results.jsonl", lines(1000, 1200))
    text = report.part(tmp_path / "results.jsonl")
    assert "measured 2026-01-01 on 2 CPUs" in text
    assert "| lstm, 64 in flight, share of bare | ≥ 0.52 | 0.55 | 0.5 to 0.6 | yes | 0.55 |" in text


def test_a_body_is_grpcs_prefix_and_the_message() -> None:
    body = h2load.message("lstm", 3)
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    request = pb.ModelInferRequest.FromString(body[5:])
    assert (request.model_name, list(request.inputs[0].shape)) == ("lstm", [3, 28, 28])


OUTPUT = "finished in 2.00s, 5.00 req/s, 1KB/s\nrequests: 10 total, 10 started, {} done, {} succeeded, 0 failed"


def test_h2loads_output_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("2000000\t200\t4000\n1000000\t200\t1000\n1500000\t200\t2000\n")
    outcome = h2load._read(OUTPUT.format(10, 10), log)
    assert outcome.per_second == 5
    assert outcome.starts == [0, 0.5, 1]
    assert outcome.latencies == [0.001, 0.002, 0.004]
    assert outcome.p50_ms == 2
    with pytest.raises(click.ClickException, match="not all answered"):
        h2load._read(OUTPUT.format(9, 9), log)


def test_recovery_is_when_ten_in_a_row_take_the_usual_time() -> None:
    latencies = [0.1] * 5 + [0.001] * 9 + [0.1] + [0.001] * 20
    outcome = h2load.Outcome(1, latencies, [place / 10 for place in range(len(latencies))])
    assert _recovery(outcome, usual_ms=2) == 1.5
    assert _recovery(h2load.Outcome(1, [0.1] * 20, [*range(20)]), usual_ms=2) == 19


@NEEDS_H2LOAD
@pytest.mark.parametrize("path", ["hot", "ordinary"])
def test_every_load_is_put_on_a_real_server(path: str) -> None:
    with served(ROOT / "models", path) as server:
        assert server.seconds_to_ready > 0
        assert server.pss_mb() > 10
        bench = Bench(server, seconds=0.1)
        closed = bench.closed("lstm", samples=3, clients=2, streams=2)
        assert closed["samples_per_s"] == pytest.approx(3 * closed["calls_per_s"])
        assert closed["p99_ms"] >= closed["p50_ms"] > 0
        assert closed["mean_batch"] >= 3
        assert bench.poisson("lstm", 50, seed=1)["answered"] == 1
        overloaded = bench.overload("cnn")
        assert overloaded["offered_per_s"] > 2 * overloaded["capacity_per_s"] > 0
        assert 0 <= overloaded["in_time_per_s"] <= overloaded["offered_per_s"]


@pytest.mark.parametrize(("count", "share"), [(0, 0.0), (1, 0.5), (2, 0.6), (5, 0.9)])
def test_the_highest_rate_is_searched_by_halves(count: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [0.5, 0.6, 0.7, 0.8, 0.9]

    rates: list[float] = []

    def poisson(_: Bench, model: str, rate: float, seed: int) -> dict[str, float]:
        rates.append(rate)
        return {"p99_ms": 14 if shares.index(round(rate / 100, 1)) < count else 16, "answered": 1}

    monkeypatch.setattr(Bench, "poisson", poisson)
    assert Bench(cast(Served, None), 1).highest_rate("cnn", 100, shares) == {"share": share}
    assert len(rates) <= 3


@NEEDS_H2LOAD
def test_a_refused_call_is_not_counted_as_answered() -> None:
    with served(ROOT / "models", "hot") as server, pytest.raises(click.ClickException, match="0 of 11 calls for lstm"):
        Bench(server, seconds=0.001).closed("lstm", samples=65)  # more than a batch takes


def test_bare_onnx_runtime_answers_in_each_way() -> None:
    command = [sys.executable, "-m", "studies.server.bare", str(ROOT / "models"), "2"]
    done = subprocess.run(command, input="lstm 4 0.05\n", capture_output=True, text=True, cwd=ROOT, check=True)
    answer = json.loads(done.stdout)
    assert set(answer) == {"all_threads", "callers", "one_thread"}
    assert all(way["samples_per_s"] > 0 and way["p50_ms"] > 0 for way in answer.values())
