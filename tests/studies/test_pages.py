"""The pages of docs/ are what `python -m studies report` makes now; what its commands list, and refuse."""

import re
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from studies import catalog, pictures, results
from studies.__main__ import main
from studies.catalog import EXPERIMENTS
from studies.page import ROOT, Part
from studies.pictures import Picture
from tests.kit.command import invoke
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", list(catalog.parts()), ids=str)
def test_a_page_is_current(part: Part) -> None:
    assert (ROOT / part.page).read_text() == part.page_text(), "run 'make docs'"


@pytest.mark.parametrize("picture", list(catalog.pictures()), ids=str)
def test_a_picture_is_current(picture: Picture) -> None:
    stored = Image.open(pictures.FOLDER / picture.file).convert("RGB")
    assert np.array_equal(np.asarray(stored), np.asarray(picture.image().convert("RGB"))), "run 'make docs'"


def test_every_picture_that_a_page_shows_exists_and_every_picture_is_shown() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"images/([\w-]+\.(?:png|svg))\)", page.read_text())}
    assert shown == {file.name for file in pictures.FOLDER.iterdir()}


def test_a_run_replaces_its_own_results_and_a_broken_file_is_refused_by_the_line(tmp_path: Path) -> None:
    file = tmp_path / "some/results.jsonl"
    for run, figure in (("a", 1), ("b", 123456789.0), ("a", [{"share": 1 / 3}, 5])):
        results.record(file, {"run": run, "figure": figure})
    first, second = ({"run": "a", "figure": [{"share": 0.333333}, 5]}, {"run": "b", "figure": 123457000.0})
    assert results.read(file) == {"a": first, "b": second}
    for text in ("no JSON", '{"figure": 1}', "5", '{"run": "a"}'):
        broken = tmp_path / "broken.jsonl"
        broken.write_text(f"{file.read_text()}{text}\n")
        with pytest.raises(click.ClickException, match=r"broken\.jsonl, line 3, is"):
            results.read(broken)


def run(*words: str | Path, exit_code: int = 0) -> Result:
    return invoke(*words, command=main, exit_code=exit_code)


def test_it_lists_every_experiment_with_its_question_cost_and_pages() -> None:
    output = run().output
    for name, experiment in EXPERIMENTS.items():
        assert f"{name}: {experiment.question}" in output
        assert experiment.cost in output
        assert all(page in output for page in experiment.pages)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_has_its_help(name: str) -> None:
    for command in (*EXPERIMENTS[name].commands, *(["report"] if EXPERIMENTS[name].report else [])):
        assert f" {name} {command} " in run(name, command, "--help").output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("accuracy", "run", "--only", "gru"), 1, "no run's name fits 'gru'"),
        (("server", "run", "--only", "native,tritn"), 2, "tritn: expected some of native,grpc,tls,"),
        (("server", "run", "--only", "bare"), 2, "--only names no server"),
        (("soak", "run", "--hours", "1", "--minutes", "5", "--models", MODELS), 2, "not both"),
        (("exported", "instructions", "--models", MODELS), 1, "perf is missing"),
        (("shipped", "page-picture"), 1, "chromium is missing"),
        (("hosts", "run"), 1, "no hosts can be made here"),
        (("train_step", "run", "--keras-python", sys.executable, "--python", sys.executable), 1, "has no keras"),
        (("gpu", "run", "--models", "none", "--provider", "cpu"), 1, "is not a folder"),
    ],
)
def test_what_is_wrong_or_missing_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str | Path, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    assert message in " ".join(run(*words, exit_code=code).output.split())
