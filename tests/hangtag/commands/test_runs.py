"""``hangtag runs``: runs are listed, shown and compared, damaged ones too, and no torch is imported for it."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hangtag.export import exporter
from hangtag.training.data.fashion_mnist import Split
from tests.hangtag.conftest import hangtag
from tests.kit import label_sets, runs
from tests.kit.browser import chromium, require_good_looks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, the first one exported; one of label sets; one that was only begun; and a damaged one."""
    folder = tmp_path_factory.mktemp("looking")
    few = garments.first(300)
    exporter.export(runs.train(folder / "runs/lstm-a", "lstm", few), folder / "models", few)
    runs.train(folder / "runs/lstm-b", "lstm", few, images=64, epochs=3)
    label_sets.finished(folder / "runs/sets", "sigmoids", label_sets.decisive_scores("sigmoids", few))
    runs.start(folder / "runs/begun", "cnn")
    runs.start(folder / "runs/damaged", "cnn")
    (folder / "runs/damaged/metrics.json").write_text("{")
    (folder / "runs/stray").mkdir()
    return folder


def look(folder: Path, *arguments: object) -> str:
    result = hangtag("runs", *arguments, "--runs", folder / "runs", "--models", folder / "models")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_run_is_listed(folder: Path) -> None:
    lines = look(folder, "list").splitlines()
    assert [line.split()[0] for line in lines] == ["run", "begun", "damaged", "lstm-a", "lstm-b", "sets"]
    begun, damaged, exported, longer, sets = lines[1:]
    assert re.search(r"tiny +fashion-mnist, first 32 +3 +0 of 2 +- +- +0\.0 +-$", begun)
    assert "metrics.json cannot be read (" in damaged
    assert re.search(r"tiny +fashion-mnist, first 32 +3 +2 +\d+\.\d\d% +\d+\.\d\d% +0\.\d +lstm 1$", exported)
    assert re.search(r"fashion-mnist, first 64 +3 +3 +\d+\.\d\d% +\d+\.\d\d% +0\.\d +-$", longer)
    assert "75.00% O-F1" in sets
    assert "70.00% O-F1" in sets

    listed = {run["run"]: run for run in json.loads(look(folder, "list", "--json"))}
    metrics = json.loads((folder / "runs/lstm-a/metrics.json").read_text())
    assert listed["lstm-a"]["test"] == metrics["summary"]["test"]["accuracy"]
    assert listed["lstm-a"]["validation"] == metrics["summary"]["peak_validation_accuracy"]
    assert listed["lstm-a"]["best_epoch"] == metrics["summary"]["best_epoch"]
    assert listed["lstm-a"]["exported_as"] == ["lstm 1"]
    assert (listed["begun"]["finished"], listed["begun"]["epochs_planned"]) == (False, 2)
    assert "trouble" in listed["damaged"]


def test_a_run_is_shown_with_its_epochs(folder: Path) -> None:
    text = look(folder, "show", "lstm-b")
    assert re.search(r"^recipe\.learning_rate +0\.001$", text, re.MULTILINE)
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["1", "2", "3"]
    assert len(re.findall(r" best$", text, re.MULTILINE)) == 1
    assert "lstm-b" in look(folder, "show", "lstm")  # a model's name: its latest finished run
    shown = json.loads(look(folder, "show", "lstm-b", "--json"))
    assert (shown["config"]["limit"], len(shown["metrics"]["epochs"])) == (64, 3)


def test_runs_are_compared_by_figures_and_by_settings_that_differ(folder: Path) -> None:
    text = look(folder, "compare", "lstm-a", "lstm-b")
    assert text.splitlines()[0].split() == ["lstm-a", "lstm-b"]
    assert re.search(r"^limit +32 +64$", text, re.MULTILINE)
    assert re.search(r"^recipe\.epochs +2 +3$", text, re.MULTILINE)
    assert "recipe.learning_rate" not in text
    compared = json.loads(look(folder, "compare", "lstm-a", "lstm-b", "--json"))
    assert compared["differences"]["limit"] == [32, 64]
    assert hangtag("runs", "compare", "lstm-a", "--runs", folder / "runs").exit_code == 2


def test_learning_curves_are_a_page_of_its_own(folder: Path, tmp_path: Path) -> None:
    look(folder, "compare", "lstm-a", "lstm-b", "sets", "--html", tmp_path / "curves/page.html")
    page = (tmp_path / "curves/page.html").read_text()
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawn) == 4  # accuracy, O-F1, the loss and the learning rate
    assert "lstm-b, validation" in page
    assert "lstm-b, training" in page
    assert "<th>limit</th>" in page
    assert not re.findall(r"""<script|\b(?:src|href)=["'](?!#|data:)""", page)
    look(folder, "show", "begun", "--html", tmp_path / "begun.html")
    assert "0 of 2" in (tmp_path / "begun.html").read_text()
    with chromium() as browser:
        for file in (tmp_path / "curves/page.html", tmp_path / "begun.html"):
            require_good_looks(browser, file)


def test_a_single_epoch_is_drawn_as_dots(garments: Split, tmp_path: Path) -> None:
    runs.train(tmp_path / "runs/short", "lstm", garments.first(300), epochs=1)
    look(tmp_path, "show", "short", "--html", tmp_path / "page.html")
    pictures = re.findall(r"<svg.*?</svg>", (tmp_path / "page.html").read_text(), re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures[:2]:  # accuracy and the loss
        curves, legend = picture.split('-legend_1"')
        for part in (curves, legend):
            dots = re.findall(r'<use [^>]*style="(fill[^:]*): [^"]*--series-0', part)
            assert sorted(set(dots)) == ["fill", "fill-opacity"]  # validation's, and training's hollow one


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    unknown = hangtag("runs", "show", "nosuch", "--runs", folder / "runs")
    assert unknown.exit_code == 1
    assert "no run 'nosuch'" in unknown.stderr
    assert "runs there: begun, damaged, lstm-a, lstm-b, sets" in unknown.stderr
    damaged = hangtag("runs", "show", "damaged", "--runs", folder / "runs")
    assert damaged.exit_code == 1
    assert "metrics.json cannot be read" in damaged.stderr
    assert "holds no run" in hangtag("runs", "list", "--runs", tmp_path, "--models", tmp_path / "none").stdout
    (tmp_path / "models/m/1").mkdir(parents=True)
    (tmp_path / "models/m/1/model.onnx").touch()
    (tmp_path / "models/m/promoted.toml").write_text("nothing")
    result = hangtag("runs", "list", "--runs", folder / "runs", "--models", tmp_path / "models")
    assert result.exit_code == 0
    assert "exported versions are not shown: " in result.stderr


def test_it_needs_no_torch(folder: Path) -> None:
    """torch takes seconds to import."""
    script = "import sys; sys.modules['torch'] = None; from hangtag.cli import main; main()"
    arguments = ["runs", "list", "--runs", str(folder / "runs"), "--models", str(folder / "models")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lstm-a" in done.stdout
