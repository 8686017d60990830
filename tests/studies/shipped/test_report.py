"""The page about the shipped models, and the README's table of them."""

from pathlib import Path

import click
import pytest

from studies import results
from studies.shipped import readme_part, run
from studies.shipped.models import read_all, read_earlier
from studies.shipped.report import page
from tests.shipped import latest

ROOT = Path(__file__).parents[3]


def test_earlier_versions_stand_below_the_latest_with_their_figures_alone(tmp_path: Path) -> None:
    for name, version in (("lstm", 1), ("lstm", 9), ("lstm", 10), ("cnn", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / str(version)).symlink_to(latest(name).parent)
    text = page(read_all(tmp_path), [], [], read_earlier(tmp_path))
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["| `lstm` version 10", "| `lstm` version 9", "| `lstm` version 1", "| `cnn` version 1"]
    assert text.count("Reproduce: ") == 2


def test_a_model_without_a_recorded_load_test_is_named_with_the_command(tmp_path: Path) -> None:
    lines = [line for line in results.read(run.RESULTS).values() if line["run"] != "lstm, 1 in flight"]
    results.write(tmp_path / "results.jsonl", lines)
    shipped = read_all(ROOT / "models")
    with pytest.raises(click.ClickException, match=r"^no load test of lstm with 1 in flight .*'python -m studies ship"):
        readme_part.part(shipped, tmp_path / "results.jsonl")


def test_a_load_test_becomes_a_line_for_each_run() -> None:
    latency = {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004, "p999": 0.005, "histogram": [1]}
    closed = {"kind": "closed loop", "concurrency": 8, "rate": None}
    document = {
        "started": "2026-01-02T03:04:05", "valid": True,
        "environment": dict.fromkeys(run.ENVIRONMENT, "x") | {"system": "y"},
        "runs": [
            {"model": "lstm", "load": load, "total": {"throughput": 99.5, "latency": latency}}
            for load in (closed, closed | {"concurrency": None, "rate": 430.0})
        ],
    }  # fmt: skip
    conditions, first, second = run.lines(document)
    assert conditions["date"] == "2026-01-02"
    assert (first["run"], second["run"]) == ("lstm, 8 in flight", "lstm, 430 calls/s")
    assert first["latency_s"] == {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004}


def test_the_recorded_load_test_is_valid() -> None:
    assert results.read(run.RESULTS)["conditions"]["valid"]
