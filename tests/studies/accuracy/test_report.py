import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hangtag.training.catalog import recipe_for
from hangtag.training.data.fashion_mnist import Split
from studies.accuracy import report as study_report
from studies.accuracy import results as study_results
from studies.accuracy.report import page, read, read_all
from tests.export.runs import start, train

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "study"


def result(
    path: Path,
    accuracy: float,
    *,
    model: str = "lstm",
    recipe: str = "study",
    limit: int | None = None,
    loss: dict[str, Any] | None = None,
    seed: int = 0,
    epochs: int = 1,
) -> None:
    recipe_of = {"name": recipe, "epochs": epochs}
    value: dict[str, Any] = {
        "config": {"model": model, "recipe": recipe_of, "limit": limit, "loss": loss, "seed": seed},
        "metrics": {"epochs": [], "summary": {"peak_validation_accuracy": accuracy, "test": {"accuracy": accuracy}}},
    }
    path.write_text(json.dumps(value))


def test_several_seeds_give_mean_and_deviation_and_one_gives_itself(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        result(tmp_path / f"lstm-{seed}.json", accuracy, seed=seed)
    result(tmp_path / "cnn.json", 0.95, model="cnn")
    study = read(tmp_path, "study")
    assert study["lstm"].spread("peak_validation_accuracy") == "91.00 ± 1.00 %"
    assert study["cnn"].spread("test", "accuracy") == "95.00 %"
    assert study["cnn"].points_above(study["lstm"]) == "+4.00"


def test_trials_and_other_recipes_do_not_count(tmp_path: Path) -> None:
    result(tmp_path / "a.json", 0.9)
    result(tmp_path / "b.json", 0.1, limit=100)
    result(tmp_path / "c.json", 0.8, recipe="best")
    result(tmp_path / "d.json", 0.2, loss={"name": "soft-labels"})
    assert read(tmp_path, "study")["lstm"].figures("peak_validation_accuracy") == [0.9]
    assert read(tmp_path, "best")["lstm"].figures("peak_validation_accuracy") == [0.8]


def test_runs_that_cannot_be_averaged_are_refused(tmp_path: Path) -> None:
    result(tmp_path / "a.json", 0.9)
    result(tmp_path / "b.json", 0.9)
    with pytest.raises(click.ClickException, match=r"b\.json is a second run of lstm with seed 0"):
        read(tmp_path, "study")
    result(tmp_path / "b.json", 0.9, seed=1, epochs=2)
    with pytest.raises(click.ClickException, match=r"b\.json is of 2 epochs; other runs of lstm are not"):
        read(tmp_path, "study")


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "has no whole run of lstm, lstm2, cnn, lstm-56, lstm-280 with recipe study. 'make study' trains"),
        ("no JSON", "a.json cannot be read (Expecting value"),
        (
            "{}",
            "a.json is no results file of a run, as python -m studies.accuracy.results writes them "
            "(KeyError('config'))",
        ),
    ],
)
def test_results_that_make_no_page_are_one_line(tmp_path: Path, contents: str | None, said: str) -> None:
    if contents is not None:
        (tmp_path / "a.json").write_text(contents)
    done = CliRunner().invoke(study_report.main, ["--results", str(tmp_path), "--out", str(tmp_path / "study.md")])
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "study.md").exists()


def changed(inputs: study_report.Inputs, model: str, **changes: object) -> study_report.Inputs:
    """With other figures or another config for one model's runs."""
    runs = json.loads(json.dumps(inputs.study[model].runs))
    for run in runs:
        run["config"] |= {key: value for key, value in changes.items() if key in run["config"]}
        run["metrics"]["summary"] |= {key: value for key, value in changes.items() if key in run["metrics"]["summary"]}
    return replace(inputs, study={**inputs.study, model: study_report.Results(runs)})


def test_what_the_page_says_follows_from_the_figures() -> None:
    inputs = read_all(RESULTS, Path("none"))
    inputs = changed(changed(inputs, "lstm-280", peak_validation_accuracy=0.1), "lstm2", precision="bf16")
    text = " ".join(page(inputs).split())
    assert re.search(r"by -8\d\.\d\d points from 186 to 280", text)
    assert "`lstm2` and `cnn` were trained with `--precision bf16`" in text
    assert "taken further" in text

    runs = [{**run, "config": run["config"] | {"seed": seed}} for seed in (0, 1) for run in inputs.study["cnn"].runs]
    twice = replace(inputs, study={**inputs.study, "cnn": study_report.Results(runs)})
    minutes = round(sum(epoch["seconds"] for epoch in inputs.study["lstm2"].runs[0]["metrics"]["epochs"]) / 60)
    assert f"`lstm2` was run once: a run took {minutes} minutes here." in " ".join(page(twice).split())


@pytest.mark.parametrize(("cnn_ms", "said"), [(14.0, "is the same"), (90.0, "differs")])
def test_the_ranking_is_told_as_it_was_measured(cnn_ms: float, said: str) -> None:
    """The study's order is lstm, cnn, lstm2."""
    times = {"lstm": 4.0, "lstm2": 40.0, "cnn": cnn_ms, "lstm-56": 1.0, "lstm-280": 8.0}
    bench = {
        "command": "make bench-train", "date": "2026-01-01", "machine": {"processor": "a CPU", "threads": 2},
        "versions": {"torch": "1", "keras": "1", "tensorflow": "1"}, "goals": dict.fromkeys(times, 2.0),
        "median_ms": {
            name: {"keras": 2 * ms, "plain": ms, "compiled": ms, "hangtag": ms} for name, ms in times.items()
        },
        "batch_size": 32, "product_gflops": 428.16,
        "times_as_fast_as_keras": {name: {"plain": 2.0, "hangtag": 2.0} for name in times},
    }  # fmt: skip
    text = " ".join(page(replace(read_all(RESULTS, Path("none")), bench=bench)).split())
    assert f"**The ranking {said} here.**" in text
    assert (
        "A training step takes 1.0 ms, 4.0 ms, and 8.0 ms in hangtag, and 2.0 ms, 8.0 ms, and 16.0 ms in Keras" in text
    )
    assert "come to 50 % of that (`lstm`)" in text  # 3 · 2 · 4.46e6 · 32 operations in 4 ms


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "labels"),
        ({"distillation": {"teacher": "resnet"}}, "labels and `resnet`"),
        ({"distillation": {"teacher": "resnet"}, "teachers": [{}, {}]}, "labels and 2 teachers"),
    ],
)
def test_what_was_learned_from_is_told_from_the_config(config: dict[str, Any], said: str) -> None:
    teachers = {"teachers": config.pop("teachers")} if "teachers" in config else {}
    assert study_report.Results([{"config": {"recipe": config, **teachers}}]).learned_from == said


def test_a_goal_is_told_as_reached_or_by_how_much_it_is_missed(tmp_path: Path) -> None:
    own = recipe_for("best", "lstm").epochs
    result(tmp_path / "a.json", 0.9161, recipe="best", epochs=own)
    result(tmp_path / "b.json", 0.953, model="cnn", recipe="best", epochs=2)
    best = read(tmp_path, "best")
    assert best["lstm"].beside(0.92) == "92.00 %, short by 0.39 points"
    assert best["cnn"].beside(0.953) == "95.30 %, reached"
    assert best["cnn"].is_above(best["lstm"])
    assert not best["lstm"].is_above(best["cnn"])
    assert best["lstm"].epochs == f"{own}"
    assert best["cnn"].epochs == f"2 of {recipe_for('best', 'cnn').epochs}"


def test_the_page_shows_the_figures_of_the_results_files() -> None:
    text = page(read_all(RESULTS, ROOT / "benchmarks" / "train" / "results.json"))
    for name in study_report.STUDY:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        values = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}-study-seed*.json"))]
        mean = sum(value["metrics"]["summary"]["test"]["accuracy"] for value in values) / len(values)
        assert re.findall(r"\d+\.\d+", row.split("|")[-2])[0] == f"{mean * 100:.2f}"
        assert f"| {len(values)} |" in row
    assert "## Hidden sizes" in text


def test_the_page_tells_what_there_was_before_muon_with_each_ones_optimizer() -> None:
    inputs = read_all(RESULTS, Path("none"))
    rows = [line for line in page(inputs).splitlines() if re.match(r"\| `\w+` \| (Adam|AdamW|SGD|Muon) \|", line)]
    assert len(rows) == len(inputs.before_muon) > 0
    for row in rows:
        name, optimizer, epochs, _, _, _, test = (cell.strip(" `") for cell in row.strip("|").split("|"))
        path = RESULTS / "before-muon" / f"{name}-{'teacher' if name == 'resnet' else 'best'}-seed0.json"
        before = json.loads(path.read_text())
        assert optimizer.lower() == before["config"]["recipe"]["optimizer"] != "muon"
        assert int(epochs) == len(before["metrics"]["epochs"])
        assert test == f"{before['metrics']['summary']['test']['accuracy'] * 100:.2f} %"


def test_without_a_measured_speed_the_page_says_nothing_of_it(tmp_path: Path) -> None:
    assert "Time per training step" not in page(read_all(RESULTS, tmp_path / "none.json"))


def test_the_command_writes_the_page_and_its_pictures(tmp_path: Path) -> None:
    done = CliRunner().invoke(study_report.main, ["--results", str(RESULTS), "--out", str(tmp_path / "study.md")])
    assert done.exit_code == 0, done.output
    page_text = (tmp_path / "study.md").read_text()
    pictures = re.findall(r"\]\((images/[^)]+)\)", page_text)
    assert len(pictures) == 4
    for picture in pictures:
        assert (tmp_path / picture).read_bytes() == (ROOT / "docs" / picture).read_bytes()


def test_a_finished_run_becomes_a_results_file_and_another_is_refused(garments: Split, tmp_path: Path) -> None:
    config = train(tmp_path / "done", "lstm", garments.first(64)).read_config()
    (tmp_path / "done" / "config.json").write_text(json.dumps(config | {"data_dir": "/home/me/data"}))
    done = CliRunner().invoke(study_results.main, [str(tmp_path / "done"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "out" / "done.json").read_text())
    assert kept["config"] == config  # without the folder, which nobody else has
    assert kept["metrics"] == json.loads((tmp_path / "done" / "metrics.json").read_text())

    taken = CliRunner().invoke(study_results.main, [str(tmp_path / "done"), "--out", str(tmp_path / "out/done.json")])
    assert taken.exit_code == 2
    assert "is a file" in taken.output

    start(tmp_path / "begun", "lstm")
    refused = CliRunner().invoke(study_results.main, [str(tmp_path / "begun"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1
    assert "is not finished" in refused.output
    assert not (tmp_path / "out" / "begun.json").exists()


def test_a_run_is_named_by_its_folder_and_a_folder_of_something_else_is_refused(
    garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = CliRunner().invoke(study_results.main, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1
    assert f"Error: {tmp_path} is no run's folder: it holds no config.json." in refused.output
    train(tmp_path / "done", "lstm", garments.first(64))
    monkeypatch.chdir(tmp_path / "done")
    assert CliRunner().invoke(study_results.main, [".", "--out", str(tmp_path / "out")]).exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["done.json"]


@pytest.mark.parametrize("model", study_report.HIDDEN_SIZES)
def test_lstm_has_three_seeds(model: str) -> None:
    seeds = {json.loads(path.read_text())["config"]["seed"] for path in RESULTS.glob(f"{model}-study-seed*.json")}
    assert len(seeds) >= 3
