"""The page about the study: what it says follows from the recorded runs."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from hangtag.training.catalog import recipe_for
from studies import results
from studies.accuracy.report import HIDDEN_SIZES, STUDY, Groups, Runs, page, read, read_step_times
from studies.accuracy.run import RESULTS


def line(
    accuracy: float, *, model: str = "lstm", group: str = "study", seed: int = 0, epochs: int = 1, **others: Any
) -> results.Line:
    return {
        "run": f"{model}-{group}-seed{seed}",
        "group": group,
        "model": model,
        "recipe": group if group in ("best", "same-view") else "study",
        "seed": seed,
        "epochs": epochs,
        "optimizer": "adam",
        "teachers": {},
        "precision": "fp32",
        "parameters": 1000,
        "seconds": 60,
        "peak_validation_accuracy": accuracy,
        "final_validation_accuracy": accuracy,
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy,
    } | others


def whole_study(*others: results.Line) -> list[results.Line]:
    """One run of every network, in place of which others may be given."""
    names = {other["model"] for other in others if other["group"] == "study"}
    return [*(line(0.9, model=model) for model in {**STUDY, **HIDDEN_SIZES} if model not in names), *others]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_several_seeds_give_mean_and_deviation_and_one_gives_itself(file: Path) -> None:
    seeds = [line(accuracy, seed=seed) for seed, accuracy in enumerate((0.90, 0.91, 0.92))]
    results.write(file, whole_study(*seeds, line(0.95, model="cnn")))
    study = read(file)["study"]
    assert study["lstm"].spread("peak_validation_accuracy") == "91.00 ± 1.00 %"
    assert study["cnn"].spread("test_accuracy") == "95.00 %"
    assert study["cnn"].points_above(study["lstm"]) == "+4.00"


def test_runs_that_cannot_be_averaged_are_refused(file: Path) -> None:
    results.write(file, whole_study(line(0.9), line(0.9) | {"run": "twin"}))
    with pytest.raises(click.ClickException, match="twin is a second run of lstm with seed 0"):
        read(file)
    results.write(file, whole_study(line(0.9), line(0.9, seed=1, epochs=2)))
    with pytest.raises(click.ClickException, match="lstm-study-seed1 has 2 epochs, other runs of lstm have another"):
        read(file)


def test_missing_runs_are_named_with_the_command_that_trains_them(file: Path) -> None:
    results.write(file, [line(0.9)])
    with pytest.raises(click.ClickException, match=r"no run of lstm2, cnn, .*'python -m studies accuracy run' trains"):
        read(file)
    results.write(file, [{"run": "a"}])
    with pytest.raises(click.ClickException, match="the run a lacks 'group'"):
        read(file)


def changed(groups: Groups, model: str, **changes: object) -> Groups:
    """The same groups with other figures for the study's runs of one model."""
    runs = Runs([{**run, **changes} for run in groups["study"][model].lines])
    return {**groups, "study": {**groups["study"], model: runs}}


def test_what_the_page_says_follows_from_the_figures() -> None:
    groups = read()
    groups = changed(changed(groups, "lstm-280", peak_validation_accuracy=0.1), "lstm2", precision="bf16")
    text = " ".join(page(groups, None).split())
    assert re.search(r"by -8\d\.\d\d points from 186 to 280", text)
    assert "`lstm2` and `cnn` were trained with `--precision bf16`" in text

    minutes = round(groups["study"]["lstm2"].first["seconds"] / 60)
    assert f"`lstm2` was run once: a run took {minutes} minutes here." in text


@pytest.mark.parametrize(("cnn_ms", "verdict"), [(14.0, "is the same"), (90.0, "differs")])
def test_the_ranking_follows_from_the_measured_times(cnn_ms: float, verdict: str) -> None:
    """The study's order is lstm, cnn, lstm2."""
    milliseconds = {"lstm": 4.0, "lstm2": 40.0, "cnn": cnn_ms, "lstm-56": 1.0, "lstm-280": 8.0}
    times = {
        "command": "python -m studies train_step run", "date": "2026-01-01", "processor": "a CPU", "threads": 2,
        "versions": {"torch": "1", "keras": "1", "tensorflow": "1"}, "batch_size": 32, "product_gflops": 428.16,
        "models": {
            name: {
                "median_ms": {"keras": 2 * ms, "plain": ms, "compiled": ms, "hangtag": ms},
                "times_as_fast_as_keras": {"plain": 2.0, "hangtag": 2.0}, "goal": 2.0,
            }
            for name, ms in milliseconds.items()
        },
    }  # fmt: skip
    text = " ".join(page(read(), times).split())
    assert f"**The ranking {verdict} here.**" in text
    assert (
        "A training step takes 1.0 ms, 4.0 ms, and 8.0 ms in hangtag, and 2.0 ms, 8.0 ms, and 16.0 ms in Keras" in text
    )
    assert "come to 50 % of that (`lstm`)" in text  # 3 · 2 · 4.46e6 · 32 operations in 4 ms


@pytest.mark.parametrize(
    ("teachers", "source"),
    [
        ({}, "labels"),
        ({"resnet": 1}, "labels and `resnet`"),
        ({"resnet": 2}, "labels and 2 `resnet`"),
        ({"resnet": 2, "cnn": 1}, "labels, 2 `resnet` and `cnn`"),
    ],
)
def test_the_source_of_what_a_network_learned_is_its_labels_and_its_teachers(
    teachers: dict[str, int], source: str
) -> None:
    assert Runs([line(0.9, teachers=teachers)]).learned_from == source


def test_a_goal_is_reached_or_missed_by_some_points(file: Path) -> None:
    own = recipe_for("best", "lstm").epochs
    results.write(
        file,
        whole_study(line(0.9161, group="best", epochs=own), line(0.953, model="cnn", group="best", epochs=2)),
    )
    best = read(file)["best"]
    assert best["lstm"].compared_with(0.92) == "92.00 %, short by 0.39 points"
    assert best["cnn"].compared_with(0.953) == "95.30 %, reached"
    assert best["cnn"].is_above(best["lstm"])
    assert not best["lstm"].is_above(best["cnn"])
    assert best["lstm"].epochs == f"{own}"
    assert best["cnn"].epochs == f"2 of {recipe_for('best', 'cnn').epochs}"


def test_the_page_shows_the_figures_of_the_recorded_runs() -> None:
    text = page(read(), read_step_times())
    lines = [json.loads(row) for row in RESULTS.read_text().splitlines()]
    for name in STUDY:
        row = next(row for row in text.splitlines() if row.startswith(f"| `{name}` |"))
        values = [one["test_accuracy"] for one in lines if (one["group"], one["model"]) == ("study", name)]
        assert re.findall(r"\d+\.\d+", row.split("|")[-2])[0] == f"{sum(values) / len(values) * 100:.2f}"
        assert f"| {len(values)} |" in row
    assert "## Hidden sizes" in text


def test_a_run_with_teachers_of_the_same_view_has_a_row_of_its_own(file: Path) -> None:
    before = line(0.9467, model="cnn", group="best")
    after = line(0.9502, model="cnn", group="same-view", teachers={"resnet-28x28-int8": 2})
    results.write(file, whole_study(before, after))
    rows = [row for row in page(read(file), None).splitlines() if row.endswith((" points |", ", reached |"))]
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        ["`cnn`", "`best`", "1", "1 of 45", "1", "labels", "94.67 %", "90.00 %", "94.67 %",
         "95.00 %, short by 0.33 points"],
        ["`cnn`", "`same-view`", "1", "1 of 90", "1", "labels and 2 `resnet-28x28-int8`", "95.02 %", "90.00 %",
         "95.02 %", "95.00 %, reached"],
    ]  # fmt: skip


def test_the_page_compares_the_networks_before_muon_with_their_own_optimizers() -> None:
    groups = read()
    text = page(groups, None)
    rows = [row for row in text.splitlines() if re.match(r"\| `\w+` \| (Adam|AdamW|SGD|Muon) \|", row)]
    assert len(rows) == len(groups["before-muon"]) > 0
    for row in rows:
        name, optimizer, epochs, _, _, _, test = (cell.strip(" `") for cell in row.strip("|").split("|"))
        before = groups["before-muon"][name].first
        assert optimizer.lower() == before["optimizer"] != "muon"
        assert int(epochs) == before["epochs"]
        assert test == f"{before['test_accuracy'] * 100:.2f} %"


def test_without_measured_times_the_page_has_no_section_about_them(tmp_path: Path) -> None:
    assert "Time per training step" not in page(read(), read_step_times(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("model", HIDDEN_SIZES)
def test_lstm_has_three_seeds(model: str) -> None:
    assert len(read()["study"][model].lines) >= 3
