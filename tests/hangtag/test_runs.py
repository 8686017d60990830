"""``hangtag runs`` lists, shows and compares runs, including damaged ones, without importing torch."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke, refusal, without


@pytest.fixture(scope="module")
def folder(trained: Path, proven: Path, voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, a run of label sets, a run without an epoch, and a damaged run."""
    folder = tmp_path_factory.mktemp("looking")
    (folder / "models").symlink_to(proven)
    runs = folder / "runs"
    shutil.copytree(trained, runs / "first")
    shorter = ("--limit", 64, "--epochs", 1, "--threads", 1, "--device", "cpu")
    invoke("train", "lstm-56", *shorter, "--out", runs / "second")
    shutil.copytree(voc / "run", runs / "sets")
    for name in ("begun", "damaged", "stray"):
        (runs / name).mkdir()
    config = json.loads((trained / "config.json").read_text())
    (runs / "begun/config.json").write_text(json.dumps(config | {"seed": 1}))
    shutil.copy(trained / "config.json", runs / "damaged")
    (runs / "damaged/metrics.json").write_text("{")
    return folder


def look(folder: Path, *arguments: object) -> str:
    return invoke("runs", *arguments, "--runs", folder / "runs", "--models", folder / "models").stdout


def test_every_run_is_listed(folder: Path) -> None:
    lines = look(folder, "list").splitlines()
    assert [line.split()[0] for line in lines] == ["run", "begun", "damaged", "first", "second", "sets"]
    begun, damaged, exported, other, sets = lines[1:]
    assert re.search(r"study +fashion-mnist, --limit 300 +1 +0 of 2 +- +- +0\.0 +-$", begun)
    assert "metrics.json cannot be read (" in damaged
    assert re.search(r"study +fashion-mnist, --limit 300 +0 +2 +\d+\.\d\d% +\d+\.\d\d% +0\.\d +lstm-56 1$", exported)
    assert re.search(r"fashion-mnist, --limit 64 +0 +1 +\d+\.\d\d% +\d+\.\d\d% +0\.\d +-$", other)
    assert re.search(r"voc2007 .*% O-F1 .*% O-F1", sets)

    listed = {run["run"]: run for run in json.loads(look(folder, "list", "--json"))}
    summary = json.loads((folder / "runs/first/metrics.json").read_text())["summary"]
    assert listed["first"]["test"] == summary["test"]["accuracy"]
    assert listed["first"]["validation"] == summary["peak_validation_accuracy"]
    assert listed["first"]["best_epoch"] == summary["best_epoch"]
    assert listed["first"]["exported_as"] == ["lstm-56 1"]
    assert (listed["begun"]["finished"], listed["begun"]["epochs_planned"]) == (False, 2)
    assert "trouble" in listed["damaged"]


def test_a_run_is_shown_with_its_epochs(folder: Path) -> None:
    text = look(folder, "show", "first")
    assert re.search(r"^recipe\.learning_rate +0\.001$", text, re.MULTILINE)
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["1", "2"]
    assert len(re.findall(r" best$", text, re.MULTILINE)) == 1
    assert "second" in look(folder, "show", "lstm-56")  # a model's name means its latest finished run
    shown = json.loads(look(folder, "show", "first", "--json"))
    assert (shown["config"]["limit"], len(shown["metrics"]["epochs"])) == (300, 2)


def test_runs_are_compared_by_figures_and_by_settings_that_differ(folder: Path) -> None:
    text = look(folder, "compare", "first", "second")
    assert text.splitlines()[0].split() == ["first", "second"]
    assert re.search(r"^limit +300 +64$", text, re.MULTILINE)
    assert re.search(r"^recipe\.epochs +2 +1$", text, re.MULTILINE)
    assert "recipe.learning_rate" not in text
    compared = json.loads(look(folder, "compare", "first", "second", "--json"))
    assert compared["differences"]["limit"] == [300, 64]
    invoke("runs", "compare", "first", "--runs", folder / "runs", exit_code=2)


def test_learning_curves_are_a_page_of_its_own(folder: Path, tmp_path: Path) -> None:
    compared, single = (tmp_path / f"curves/{name}.html" for name in ("compared", "single"))
    look(folder, "compare", "first", "second", "sets", "--html", compared)
    page = compared.read_text()
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawn) == 4  # charts of accuracy, O-F1, loss and learning rate
    assert "second, validation" in page
    assert "second, training" in page
    assert "<th>limit</th>" in page
    assert not re.findall(r"""<script|\b(?:src|href)=["'](?!#|data:)""", page)
    # A single epoch is drawn as a filled dot for validation and a hollow dot for training.
    look(folder, "show", "second", "--html", single)
    pictures = re.findall(r"<svg.*?</svg>", single.read_text(), re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures[:2]:  # the first two charts are of accuracy and of the loss
        for part in picture.split('-legend_1"'):
            dots = re.findall(r'<use [^>]*style="(fill[^:]*): [^"]*--series-0', part)
            assert sorted(set(dots)) == ["fill", "fill-opacity"]
    with chromium() as browser:
        require_good_looks(browser, compared)


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    unknown = refusal("runs", "show", "nosuch", "--runs", folder / "runs")
    assert "'nosuch'" in unknown
    assert "begun, damaged, first, second, sets" in unknown
    assert "metrics.json cannot be read" in refusal("runs", "show", "damaged", "--runs", folder / "runs")
    (tmp_path / "file").touch()
    unwritable = refusal("runs", "show", "first", "--runs", folder / "runs", "--html", tmp_path / "file/page.html")
    assert unwritable == f"cannot write {tmp_path}/file/page.html: Not a directory"
    empty = invoke("runs", "list", "--runs", tmp_path, "--models", tmp_path / "none")
    assert str(tmp_path) in empty.stdout
    (tmp_path / "models/m/1").mkdir(parents=True)
    (tmp_path / "models/m/1/model.onnx").touch()
    (tmp_path / "models/m/promoted.toml").write_text("nothing")
    result = invoke("runs", "list", "--runs", folder / "runs", "--models", tmp_path / "models")
    assert "promoted.toml" in result.stderr


@pytest.mark.parametrize(
    ("file", "content", "trouble"),
    [
        ("metrics.json", "[" * 100_000, "cannot be read (it is nested too deeply)"),
        ("metrics.json", '{"epochs": null}', "is not a JSON object of a run"),
        ("metrics.json", '{"summary": null}', "is not a JSON object of a run"),
        ("config.json", '{"model": "lstm", "recipe": {}, "environment": null}', "is not a JSON object of a run"),
    ],
)
def test_a_malformed_file_is_named_and_the_other_runs_are_listed(
    tmp_path: Path, file: str, content: str, trouble: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model": "lstm", "recipe": {}}')
    (tmp_path / "one" / file).write_text(content)
    _, one, two = invoke("runs", "list", "--runs", tmp_path).stdout.splitlines()
    assert f"{file} {trouble}" in one
    assert re.match("two +lstm", two)


def test_it_needs_no_torch(folder: Path) -> None:
    done = without(["torch"], "runs", "list", "--runs", folder / "runs", "--models", folder / "models")
    assert done.returncode == 0, done.stderr
    assert "first" in done.stdout
