import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from studies.label_sets import report as cnn_rnn_report
from studies.label_sets.report import DATASETS, MEASURES, MODELS, SEEDS, lead, missing, page, read, rows, spread


def figures(o_f1: float, exact_match: float) -> dict[str, float]:
    return dict.fromkeys(MEASURES, 0.5) | {"o_f1": o_f1, "exact_match": exact_match}


def result(folder: Path, model: str, dataset: str, seed: int, o_f1: float, exact_match: float, epochs: int = 5) -> None:
    """A run whose own answer, and its threshold for O-F1, reach o_f1, and whose other threshold reaches exact_match."""
    test: dict[str, Any] = figures(o_f1, exact_match if model == "cnn_rnn" else exact_match - 0.1)
    test["by_threshold"] = {
        "o_f1": figures(o_f1, exact_match - 0.1),
        "exact_match": figures(o_f1 - 0.1, exact_match),
        "one_half": figures(0.1, 0.1),
    }
    config = {"model": model, "dataset": dataset, "seed": seed, "limit": None, "recipe": {"epochs": epochs}}
    value = {"config": config, "metrics": {"summary": {"test": test}}}
    (folder / f"{model}-{dataset}-seed{seed}.json").write_text(json.dumps(value))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three seeds; on outfits CNN-RNN leads by 3, 5 and 7 points in O-F1, on the control set by 1 each."""
    for seed in SEEDS:
        for dataset, advantage in zip(DATASETS, (0.03 + 0.02 * seed, 0.01), strict=True):
            for rank, model in enumerate(MODELS[1:]):
                result(tmp_path, model, dataset, seed, 0.70 - 0.01 * rank, 0.40 + 0.01 * rank)
            result(tmp_path, "cnn_rnn", dataset, seed, 0.70 + advantage, 0.52)
    return tmp_path


def test_each_baseline_is_shown_by_both_thresholds_and_cnn_rnn_by_its_path(results: Path) -> None:
    shown = [(row.name, row.rule) for row in rows(read(results)["outfits"])]
    assert shown[:2] == [("cnn_rnn", "likeliest path"), ("cnn_rnn", "threshold, for O-F1")]
    assert ("softmax_ranking", "threshold, for exact match") in shown
    assert ("sigmoids", "threshold 0.5") in shown


def test_the_lead_is_over_the_best_baseline_by_the_best_threshold_for_each_measure(results: Path) -> None:
    table = rows(read(results)["outfits"])
    assert lead(table, "o_f1") == pytest.approx([3, 5, 7])
    assert lead(table, "exact_match") == pytest.approx([52 - 42] * 3)


def test_the_page_tells_leads_on_both_sets(results: Path) -> None:
    text = page(read(results))
    assert "| outfits | +5.00 ± 2.00 | +10.00 ± 0.00 |" in text
    assert "| outfits-independent | +1.00 ± 0.00 | +10.00 ± 0.00 |" in text
    assert "over 3 seeds" in text
    assert "2 points in O-F1, reached; 5 points in the exact match, reached" in text
    assert "by 4.00 points in O-F1 and 0.00 in the exact match it is smaller" in text


def test_a_goal_that_is_missed_is_said_to_be(results: Path) -> None:
    for seed in SEEDS:
        result(results, "cnn_rnn", "outfits", seed, 0.69, 0.52)
    assert "2 points in O-F1, missed by 3.00; 5 points in the exact match, reached" in page(read(results))


def test_one_seed_has_no_deviation() -> None:
    assert spread([1.234]) == "1.23"
    assert spread([-1.0, -2.0], signed=True) == "-1.50 ± 0.71"


def test_the_command_writes_the_page(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "cnn-rnn.md"
    done = CliRunner().invoke(cnn_rnn_report.main, ["--results", str(results), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == page(read(results))


def test_until_every_run_is_there_the_page_is_not_made(results: Path, tmp_path: Path) -> None:
    (results / "sigmoids-outfits-seed1.json").unlink()
    assert missing(read(results)) == ["sigmoids-outfits-seed1"]
    out = tmp_path / "cnn-rnn.md"
    done = CliRunner().invoke(cnn_rnn_report.main, ["--results", str(results), "--out", str(out)])
    assert done.exit_code == 0
    assert "1 are lacking, first sigmoids-outfits-seed1" in done.output
    assert not out.exists()


def test_runs_that_cannot_be_compared_are_refused(results: Path) -> None:
    (results / "z.json").write_text((results / "sigmoids-outfits-seed1.json").read_text())
    with pytest.raises(click.ClickException, match=r"z\.json is a second run of sigmoids on this data with seed 1"):
        read(results)
    result(results, "sigmoids", "outfits", 7, 0.5, 0.5, epochs=6)
    (results / "z.json").unlink()
    with pytest.raises(click.ClickException, match=r"seed7\.json is of 6 or 5 epochs; others are not"):
        read(results)
    (results / "a.json").write_text("{}")
    with pytest.raises(click.ClickException, match=r"a\.json is no results file of such a run"):
        read(results)


def test_the_papers_convention_is_shown_where_all_seeds_tell_it(results: Path) -> None:
    assert "top 3" not in page(read(results))
    for path in results.glob("sigmoids-outfits-seed*.json"):
        value = json.loads(path.read_text())
        value["metrics"]["summary"]["test"]["by_rank"] = {"top_3": figures(0.31, 0.21)}
        path.write_text(json.dumps(value))
    text = page(read(results))
    assert "| `sigmoids` | top 3 | 50.00 ± 0.00 |" in text
    assert "the 3 labels that score highest" in text
