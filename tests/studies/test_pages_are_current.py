"""Every generated page, marked part and picture is what the recorded results and the declarations say."""

import re

import numpy as np
import pytest
from PIL import Image

from studies import catalog, pictures
from studies.catalog import EXPERIMENTS
from studies.page import ROOT, Part
from studies.pictures import Picture

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


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.report])
def test_a_page_names_its_results_file_and_the_command_that_measures_anew(name: str) -> None:
    texts = [part.make() for part in EXPERIMENTS[name].parts()]
    assert all("`make docs`" in text for text in texts)
    if (ROOT / "studies" / name / "results.jsonl").exists():
        assert any(f"studies/{name}/results.jsonl)" in text for text in texts)
        assert any(f"python -m studies {name} " in text for text in texts)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_folder_whose_pages_exist(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert (ROOT / "studies" / name / "__init__.py").read_text().count("\n") >= 3
    assert all((ROOT / page).is_file() for page in experiment.pages)
    assert {part.page for part in experiment.parts()} <= set(experiment.pages) | {"docs/study.md"}
