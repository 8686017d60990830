import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export import cnn_rnn_report
from export.cnn_rnn_report import DATASETS, MEASURES, MODELS, lead, page, rows, spread


def figures(o_f1: float, exact_match: float) -> dict[str, float]:
    return dict.fromkeys(MEASURES, 0.5) | {"o_f1": o_f1, "exact_match": exact_match}


def result(folder: Path, model: str, dataset: str, seed: int, o_f1: float, exact_match: float) -> None:
    """A run whose own answer, and its threshold for O-F1, reach o_f1, and whose other threshold reaches exact_match."""
    test: dict[str, Any] = figures(o_f1, exact_match if model == "cnn_rnn" else exact_match - 0.1)
    test["by_threshold"] = {
        "o_f1": figures(o_f1, exact_match - 0.1),
        "exact_match": figures(o_f1 - 0.1, exact_match),
        "one_half": figures(0.1, 0.1),
    }
    value = {"config": {"model": model, "dataset": dataset}, "metrics": {"summary": {"test": test}}}
    (folder / f"{model}-{dataset}-seed{seed}.json").write_text(json.dumps(value))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds; on outfits CNN-RNN leads by 3 and 5 points in O-F1, on the control set by 1 and 1."""
    for seed in (0, 1):
        for dataset, advantage in zip(DATASETS, (0.03 + 0.02 * seed, 0.01), strict=True):
            for rank, model in enumerate(MODELS[1:]):
                result(tmp_path, model, dataset, seed, 0.70 - 0.01 * rank, 0.40 + 0.01 * rank)
            result(tmp_path, "cnn_rnn", dataset, seed, 0.70 + advantage, 0.52)
    return tmp_path


def test_each_baseline_is_shown_by_both_thresholds_and_cnn_rnn_by_its_path(results: Path) -> None:
    shown = [(row.name, row.rule) for row in rows(results, "outfits")]
    assert shown[:2] == [("cnn_rnn", "likeliest path"), ("cnn_rnn", "threshold, for O-F1")]
    assert ("softmax_ranking", "threshold, for exact match") in shown
    assert ("sigmoids", "threshold 0.5") in shown


def test_the_lead_is_over_the_best_baseline_by_the_best_threshold_for_each_measure(results: Path) -> None:
    table = rows(results, "outfits")
    assert lead(table, "o_f1") == pytest.approx([3, 5])
    assert lead(table, "exact_match") == pytest.approx([52 - 42] * 2)


def test_the_page_tells_leads_on_both_sets(results: Path) -> None:
    text = page(results)
    assert "| outfits | +4.00 ± 1.41 | +10.00 ± 0.00 |" in text
    assert "| outfits-independent | +1.00 ± 0.00 | +10.00 ± 0.00 |" in text
    assert "over 2 seeds" in text


def test_one_seed_has_no_deviation() -> None:
    assert spread([1.234]) == "1.23"
    assert spread([-1.0, -2.0], signed=True) == "-1.50 ± 0.71"


def test_the_command_writes_the_page(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "cnn-rnn.md"
    done = CliRunner().invoke(cnn_rnn_report.main, ["--results", str(results), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == page(results)
