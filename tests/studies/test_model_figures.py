"""The pages about models report only on the files that ship and of runs that can be compared.

The tests of the pages show that these follow from the recorded figures: a fault in the arithmetic changes a page.
"""

from pathlib import Path

import click
import pytest

from hangtag.export.gate import speed
from studies import results
from studies.accuracy import report as accuracy
from studies.accuracy.run import RESULTS as ACCURACY_RUNS
from studies.calibration import section
from studies.calibration.run import RESULTS as CALIBRATION
from studies.cascades import report as cascades
from studies.cascades.run import RESULTS as CASCADES
from studies.exported.run import middle
from studies.shipped import measured, readme_part, route
from studies.shipped.models import ShippedModel, read_all
from studies.shipped.run import ACCURACY
from studies.shipped.run import RESULTS as SHIPPED
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ships() -> list[ShippedModel]:
    return read_all(MODELS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def changed(recorded: Path, file: Path, run: str, /, **figures: object) -> None:
    """Write results that differ from recorded ones in some figures of a run."""
    lines = results.read(recorded)
    lines[run] |= figures
    results.write(file, lines.values())


@pytest.mark.parametrize(("graphs", "same"), [(("lstm", "lstm"), True), (("cnn", "lstm"), False)])
def test_speed_of_an_earlier_version_counts_only_where_its_graph_is_the_same(
    tmp_path: Path, file: Path, graphs: tuple[str, str], same: bool
) -> None:
    """Version 1 of the shipped models has other weights than version 2."""
    (tmp_path / "lstm").mkdir()
    for version, name in zip((1, 2), graphs, strict=True):
        (tmp_path / "lstm" / str(version)).symlink_to(MODELS / name / str(version))
    lines = [line | {"version": "1"} for line in results.read(SHIPPED).values() if line.get("model") == "lstm"]
    results.write(file, lines)
    if same:
        (model,) = measured.read(read_all(tmp_path), file, repository=tmp_path)
        assert (model.earlier_version, model.title) == (1, "lstm version 2")
    else:
        with pytest.raises(click.ClickException, match="version 1 of lstm was load-tested, and version 2, which ships"):
            measured.read(read_all(tmp_path), file, repository=tmp_path)


def test_a_route_counts_only_as_it_was_measured_and_with_all_test_images(ships: list[ShippedModel], file: Path) -> None:
    accuracy = f"{route.NAME}, {ACCURACY}"
    now = route.definition(MODELS)
    looser = now | {"settings": now["settings"] | {"accept": {"output": "probabilities", "at_least": 0.5}}}
    older = now | {"versions": now["versions"] | {"cnn": 1}}
    for figures, message in (
        ({"route": looser}, "'at_least': 0.5"),
        ({"route": older}, "'cnn': 1"),
        ({"images": 500}, "on the whole test set is not recorded"),
    ):
        changed(SHIPPED, file, accuracy, **figures)
        with pytest.raises(click.ClickException, match=f"{message}.*'python -m studies shipped run' measures it"):
            measured.read(ships, file)
    figures_by_model = measured.read(ships, SHIPPED)
    assert [each.name for each in figures_by_model] == ["lstm", "cnn", route.NAME, "lstm2"]
    assert figures_by_model[2].parameters == figures_by_model[0].parameters + figures_by_model[1].parameters
    results.write(file, [line for line in results.read(SHIPPED).values() if line.get("model") != route.NAME])
    assert route.NAME not in readme_part.part(ships, file)


def test_training_runs_that_cannot_be_compared_are_refused(file: Path) -> None:
    lines = results.read(ACCURACY_RUNS)
    lstm = lines["lstm-study-seed0"]
    for other, message in (
        (lstm | {"run": "twin"}, "twin is a second run of lstm with seed 0"),
        (lstm | {"run": "shorter", "seed": 99, "epochs": 2}, "shorter has 2 epochs"),
    ):
        results.write(file, [*lines.values(), other])
        with pytest.raises(click.ClickException, match=message):
            accuracy.read(file)


def test_figures_of_another_file_than_the_one_that_ships_are_refused(ships: list[ShippedModel], file: Path) -> None:
    changed(CALIBRATION, file, "cnn", graph_digest="other")
    with pytest.raises(click.ClickException, match=r"no calibration of cnn version \d as it ships; measure it with"):
        section.lines_of(ships, file)
    digests = results.read(CASCADES)["conditions"]["graph_digests"]
    changed(CASCADES, file, "conditions", graph_digests=digests | {"cnn": "other"})
    with pytest.raises(click.ClickException, match=r"no curve of cnn version \d as it ships; measure it with"):
        cascades.part(file)


def test_of_several_rounds_the_median_ratio_counts() -> None:
    rounds = [
        {speed.FILE: 1.0, speed.EAGER: 2.0},
        {speed.FILE: 4.0, speed.EAGER: 12.0},
        {speed.FILE: 2.0, speed.EAGER: 9.0},
    ]
    measured = middle([speed.Speed({64: times}, 1, {}, others=0.1 * number) for number, times in enumerate(rounds)])
    assert measured.milliseconds == {64: {speed.FILE: 2.0, speed.EAGER: 6.0}}  # the ratios are 2, 3 and 4.5
    assert measured.others == 0.2
