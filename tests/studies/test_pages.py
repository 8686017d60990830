"""The pages of docs/ are what `python -m studies report` makes now, and what pages are made with."""

import re
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from studies import catalog, options, pictures, results
from studies.catalog import EXPERIMENTS
from studies.page import ROOT, Part, replace_part
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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_pages_of_an_experiment_exist_and_name_its_results_and_its_command(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert all((ROOT / page).is_file() for page in experiment.pages)
    assert {part.page for part in experiment.parts()} <= {*experiment.pages, "docs/study.md"}
    if (ROOT / "studies" / name / "results.jsonl").exists():
        text = "".join((ROOT / page).read_text() for page in experiment.pages)
        assert f"studies/{name}/results.jsonl)" in text
        assert f"python -m studies {name} " in text


def test_a_marked_part_is_replaced_and_the_rest_stays() -> None:
    begin, end = "<!-- part: x (written by make docs) -->", "<!-- end of part: x -->"
    text = replace_part(f"a\n{begin}\nold\n{end}\nb\n", "x", "new")
    assert text == f"a\n{begin}\n\nnew\n\n{end}\nb\n"
    assert replace_part(text, "x", "new") == text
    for other in ("a page", f"{text}{text}"):
        with pytest.raises(click.ClickException, match=r"the page has [02] parts"):
            replace_part(other, "x", "new")


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


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        ([], "page.jsonl"),
        (["--quick", "--samples", "3"], None),
        (["--samples", "3", "--out", "mine.jsonl"], "mine.jsonl"),
    ],
)
def test_other_options_than_the_pages_are_recorded_only_in_a_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], recorded: str | None
) -> None:
    @click.command()
    @click.option("--samples", type=int, default=9)
    @click.option("--quick", is_flag=True)
    @options.OUT
    def experiment(samples: int, quick: bool, out: Path | None) -> None:
        line = {"run": "conditions", "command": f"experiment{options.given()}"}
        options.write(out, Path("page.jsonl"), [line], complete=not options.given())

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(experiment, arguments)
    assert result.exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == ([recorded] if recorded else [])
    if recorded:
        given = " --samples 3" if arguments else ""
        assert results.read(Path(recorded))["conditions"]["command"] == f"experiment{given}"
