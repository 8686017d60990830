"""The generated pages of docs/ and studies/ are current. `python -m studies` lists studies and refuses bad options."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from studies import catalog, results
from studies.__main__ import main
from studies.catalog import EXPERIMENTS
from studies.page import ROOT, Part
from studies.pictures import Picture
from tests.kit.command import invoke

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", list(catalog.parts()), ids=str)
def test_a_page_is_current(part: Part) -> None:
    assert (ROOT / part.page).read_text() == part.page_text(), "run 'make docs'"


@pytest.mark.parametrize("picture", list(catalog.pictures()), ids=str)
def test_a_picture_is_current(picture: Picture) -> None:
    stored = Image.open(ROOT / picture.file).convert("RGB")
    assert np.array_equal(np.asarray(stored), np.asarray(picture.image().convert("RGB"))), "run 'make docs'"


def test_every_picture_that_a_page_shows_exists_and_every_picture_is_shown() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")]
    links = ((page.parent, link) for page in pages for link in re.findall(r"\]\((\S+\.png)\)", page.read_text()))
    kept = {*ROOT.glob("docs/**/*.png"), *ROOT.glob("studies/**/*.png")}
    assert {(folder / link).resolve() for folder, link in links} == kept


def test_a_run_replaces_its_own_results(tmp_path: Path) -> None:
    file = tmp_path / "some/results.jsonl"
    for run, figure in (("a", 1), ("b", 123456789.0), ("a", [{"share": 1 / 3}, 5])):
        results.record(file, {"run": run, "figure": figure})
    first, second = ({"run": "a", "figure": [{"share": 0.333333}, 5]}, {"run": "b", "figure": 123457000.0})
    assert results.read(file) == {"a": first, "b": second}


def run(*words: str | Path, exit_code: int = 0) -> Result:
    return invoke(*words, command=main, exit_code=exit_code)


def test_it_lists_every_experiment_with_its_question_and_cost() -> None:
    output = run().output
    for name, experiment in EXPERIMENTS.items():
        assert f"{name}: {experiment.question}" in output
        assert experiment.cost in output


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.run])
def test_every_command_has_its_help(name: str) -> None:
    assert f" {name} run " in run(name, "run", "--help").output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("server", "run", "--only", "native,tritn"), 2, "tritn: expected some of native,native-2,grpc,tls,"),
        (("server", "run", "--only", "bare"), 2, "--only names no server"),
        (("gpu", "run", "--models", "none", "--provider", "cpu"), 2, "does not exist"),
    ],
)
def test_what_is_wrong_or_missing_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str | Path, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    assert message in " ".join(run(*words, exit_code=code).output.split())
