"""The figures of `make bench-export` in docs/export.md."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from studies import marked
from studies.exported import report

ROOT = Path(__file__).parents[3]


def results() -> dict[str, Any]:
    return {
        "command": "make bench-export",
        "date": "2026-01-01",
        "machine": {"processor": "a processor", "cpus": 2, "load_before": 0.1},
        "versions": {"ONNX Runtime": "1.2", "PyTorch": "3.4"},
        "models": {
            "lstm": {
                "version": 2,
                "median_ms": {"1": {"file": 0.2, "PyTorch": 0.5}, "64": {"file": 12.0, "PyTorch": 18.0}},
                "goal": "1.5x PyTorch at batch 1", "ratio": 2.5, "reached": True,
            },
            "cnn-int8": {
                "version": 1,
                "median_ms": {"64": {"file": 20.0, "fp32 file": 50.0, "PyTorch": 100.0, "torch.compile": 70.0}},
                "goal": "3x fp32 file at batch 64", "ratio": 2.5, "reached": False,
                "nodes": [{"name": "conv", "operator": "QLinearConv", "microseconds": 1500.0, "share": 0.75}],
                "may_lose": 0.002, "accuracy_lost": 0.0005,
            },
            "lstm2": {
                "version": 1, "median_ms": {"1": {"file": 1.0}}, "goal": "1.5x PyTorch at batch 1", "reached": None
            },
        },
    }  # fmt: skip


def test_the_page_gets_times_goals_and_where_the_time_of_a_missed_one_goes() -> None:
    page = f"before\n{report.BEGIN}old\n{marked.END}after\n"
    written = report.written_into(page, results())
    assert written.startswith(f"before\n{report.BEGIN}Measured 2026-01-01 on 2 CPUs (a processor; ONNX Runtime 1.2, Py")
    assert written.endswith(f"{marked.END}after\n")
    for line in (
        "| model | batch | the file | its fp32 file | PyTorch | torch.compile |",
        "| `lstm` version 2 | 1 | 0.200 |  | 0.500 (2.50x) |  |",
        "| `lstm` version 2 | 64 | 12.0 |  | 18.0 (1.50x) |  |",
        "| `cnn-int8` version 1 | 64 | 20.0 | 50.0 (2.50x) | 100.0 (5.00x) | 70.0 (3.50x) |",
        "| `lstm` | 1.5x PyTorch at batch 1 | 2.50x | yes |",
        "| `cnn-int8` | 3x fp32 file at batch 64 | 2.50x | no |",
        "| `cnn-int8` | at most 0.2 points of accuracy lost | 0.05 | yes |",
        "| `lstm2` | 1.5x PyTorch at batch 1 |  | not measured |",
        "| `conv` | QLinearConv | 1,500 | 75.0% |",
    ):
        assert f"\n{line}\n" in written, line
    assert "old" not in written
    assert "time of `lstm`" not in written
    assert report.written_into(written, results()) == written
    with pytest.raises(click.ClickException, match="two marks are missing"):
        report.written_into("no place", results())


def test_the_page_in_the_repository_has_its_marks() -> None:
    assert report.written_into((ROOT / "docs/export.md").read_text(), results())


def test_without_results_the_page_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("as it was")
    result = CliRunner().invoke(report.main, ["--results", str(tmp_path / "none.json"), "--page", str(page)])
    assert result.exit_code == 0
    assert "stays as it is: there is no" in result.output
    assert page.read_text() == "as it was"
