"""The page about CNN-RNN: its tables, leads and verdicts follow from the recorded runs."""

from pathlib import Path

import click
import pytest

from studies import results
from studies.label_sets.report import lead, page, read, rows
from studies.label_sets.run import DATASETS, MEASURES, MODELS, SEEDS


def figures(o_f1: float, exact_match: float) -> dict[str, float]:
    return dict.fromkeys(MEASURES, 0.5) | {"o_f1": o_f1, "exact_match": exact_match}


def line(model: str, dataset: str, seed: int, o_f1: float, exact_match: float, epochs: int = 5) -> results.Line:
    """A run whose path, or threshold for O-F1, reaches o_f1, and whose path or other threshold reaches exact_match."""
    rules = {"likeliest path": figures(o_f1, exact_match)} if model == "cnn_rnn" else {}
    rules["threshold, for O-F1"] = figures(o_f1, exact_match - 0.1)
    if model != "cnn_rnn":
        rules["threshold, for exact match"] = figures(o_f1 - 0.1, exact_match)
    if model == "sigmoids":
        rules["threshold 0.5"] = figures(0.1, 0.1)
    run = f"{model}-{dataset}-seed{seed}"
    return {"run": run, "model": model, "dataset": dataset, "seed": seed, "epochs": epochs, "rules": rules}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three seeds; on outfits CNN-RNN leads by 3, 5 and 7 points in O-F1, on the control set by 1 each."""
    lines = []
    for seed in SEEDS:
        for dataset, advantage in zip(DATASETS, (0.03 + 0.02 * seed, 0.01), strict=True):
            for rank, model in enumerate(MODELS[1:]):
                lines.append(line(model, dataset, seed, 0.70 - 0.01 * rank, 0.40 + 0.01 * rank))
            lines.append(line("cnn_rnn", dataset, seed, 0.70 + advantage, 0.52))
    results.write(tmp_path / "results.jsonl", lines)
    return tmp_path / "results.jsonl"


def test_each_baseline_is_shown_by_both_thresholds_and_cnn_rnn_by_its_path(file: Path) -> None:
    shown = [(row.name, row.rule) for row in rows(read(file)["outfits"])]
    assert shown[:2] == [("cnn_rnn", "likeliest path"), ("cnn_rnn", "threshold, for O-F1")]
    assert ("softmax_ranking", "threshold, for exact match") in shown
    assert ("sigmoids", "threshold 0.5") in shown


def test_the_lead_is_over_the_best_baseline_by_the_best_threshold_for_each_measure(file: Path) -> None:
    table = rows(read(file)["outfits"])
    assert lead(table, "o_f1") == pytest.approx([3, 5, 7])
    assert lead(table, "exact_match") == pytest.approx([52 - 42] * 3)


def test_the_page_compares_leads_on_both_sets(file: Path) -> None:
    text = " ".join(page(read(file)).split())
    assert "| outfits | +5.00 ± 2.00 | +10.00 ± 0.00 |" in text
    assert "| outfits-independent | +1.00 ± 0.00 | +10.00 ± 0.00 |" in text
    assert "over 3 seeds" in text
    assert "2 points in O-F1, reached; 5 points in the exact match, reached" in text
    assert "smaller by 4.00 points in O-F1 and 0.00 in the exact match" in text


def test_a_missed_goal_is_named(file: Path) -> None:
    for seed in SEEDS:
        results.record(file, line("cnn_rnn", "outfits", seed, 0.69, 0.52))
    assert "2 points in O-F1, missed by 3.00; 5 points in the exact match, reached" in page(read(file))


def test_missing_runs_are_named_with_the_command_that_trains_them(file: Path) -> None:
    results.write(file, [one for one in results.read(file).values() if one["run"] != "sigmoids-outfits-seed1"])
    with pytest.raises(click.ClickException, match=r"lacks 1 runs, first sigmoids-outfits-seed1\. 'python -m studies"):
        read(file)


def test_runs_that_cannot_be_compared_are_refused(file: Path) -> None:
    lines = list(results.read(file).values())
    results.write(file, [*lines, line("sigmoids", "outfits", 1, 0.5, 0.5) | {"run": "twin"}])
    with pytest.raises(click.ClickException, match="twin is a second run of this model and data set with seed 1"):
        read(file)
    results.write(file, [*lines, line("sigmoids", "outfits", 7, 0.5, 0.5, epochs=6)])
    with pytest.raises(click.ClickException, match="sigmoids-outfits-seed7 has 6 epochs"):
        read(file)
    results.write(file, [*lines, {"run": "a"}])
    with pytest.raises(click.ClickException, match="a is no run of this experiment"):
        read(file)


def test_the_papers_convention_is_shown_where_all_seeds_have_it_and_does_not_count_for_the_lead(file: Path) -> None:
    assert "top 3" not in page(read(file))
    before = read(file)
    for seed in SEEDS:
        one = line("sigmoids", "outfits", seed, 0.69, 0.41)
        one["rules"]["top 3"] = figures(0.99, 0.21)
        results.record(file, one)
    text = page(read(file))
    assert "| `sigmoids` | top 3 | 50.00 ± 0.00 |" in text
    assert "the 3 labels that score highest" in text
    assert lead(rows(read(file)["outfits"]), "o_f1") == lead(rows(before["outfits"]), "o_f1")
