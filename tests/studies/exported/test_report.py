"""The tables of docs/export.md about the speed of exported files."""

from pathlib import Path

from studies import results
from studies.exported import report

LINES: list[results.Line] = [
    {
        "run": "conditions", "command": "python -m studies exported run", "date": "2026-01-01",
        "processor": "a processor", "cpus": 2, "load_before": 0.25, "rounds": 3,
        "versions": {"ONNX Runtime": "1.2", "PyTorch": "3.4"},
    },
    {
        "run": "lstm", "version": 2,
        "median_ms": {"1": {"file": 0.2, "PyTorch": 0.5}, "64": {"file": 12.0, "PyTorch": 18.0}},
        "goal": "1.5x PyTorch at batch 1", "ratio": 2.5, "reached": True,
    },
    {
        "run": "cnn-int8", "version": 1,
        "median_ms": {"64": {"file": 20.0, "fp32 file": 50.0, "PyTorch": 100.0, "torch.compile": 70.0}},
        "goal": "3x fp32 file at batch 64", "ratio": 2.5, "reached": False,
        "nodes": [{"name": "conv", "operator": "QLinearConv", "microseconds": 1500.0, "share": 0.75}],
        "may_lose": 0.002, "accuracy_lost": 0.0005,
    },
    {
        "run": "lstm2", "version": 1, "median_ms": {"1": {"file": 1.0}},
        "goal": "1.5x PyTorch at batch 1", "reached": None,
    },
]  # fmt: skip


def test_the_page_shows_times_goals_and_the_slowest_nodes_of_a_model_that_misses_its_goal(tmp_path: Path) -> None:
    results.write(tmp_path / "results.jsonl", LINES)
    text = report.part(tmp_path / "results.jsonl")
    assert "measured 2026-01-01 on 2 CPUs (a processor; ONNX Runtime 1.2, PyTorch 3.4) by `python -m studies" in text
    assert "the load average before was 0.2" in text
    for row in (
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
        assert row in text.splitlines(), row
    assert "time of `lstm`" not in text
