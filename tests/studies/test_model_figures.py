"""The pages about models report only on the files that ship.

The tests of the pages show that these follow from the recorded figures: a fault in the arithmetic changes a page.
"""

from pathlib import Path

import click
import onnx
import pytest

from studies import results
from studies.calibration import section
from studies.calibration.run import RESULTS as CALIBRATION
from studies.cascades import report as cascades
from studies.cascades.run import RESULTS as CASCADES
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


@pytest.mark.parametrize("same", [True, False])
def test_speed_of_an_earlier_version_counts_only_where_its_graph_is_the_same(
    ships: list[ShippedModel], tmp_path: Path, file: Path, same: bool
) -> None:
    """Version 1 has other weights than version 2, or another operator."""
    shipped = MODELS / ships[0].name / str(ships[0].version)
    (tmp_path / "any/1").mkdir(parents=True)
    (tmp_path / "any/2").symlink_to(shipped)
    earlier = onnx.load(shipped / "model.onnx")
    if same:
        weight = earlier.graph.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
    else:
        earlier.graph.node[0].op_type = "Abs"
    onnx.save(earlier, tmp_path / "any/1/model.onnx")
    results.write(file, [{"run": "any, 1 in flight", "model": "any", "version": "1"}])
    if same:
        (model,) = measured.read(read_all(tmp_path), file, repository=tmp_path)
        assert (model.earlier_version, model.title) == (1, "any version 2")
    else:
        with pytest.raises(click.ClickException, match="version 1 of any was load-tested, and version 2, which ships"):
            measured.read(read_all(tmp_path), file, repository=tmp_path)


def test_a_route_counts_only_as_it_was_measured_and_with_all_test_images(ships: list[ShippedModel], file: Path) -> None:
    accuracy = f"{route.NAME}, {ACCURACY}"
    now = route.definition(MODELS)
    looser = now | {"settings": now["settings"] | {"accept": {"output": "probabilities", "at_least": 0.0}}}
    older = now | {"versions": dict.fromkeys(now["versions"], 0)}
    for figures, message in (
        ({"route": looser}, "'at_least': 0.0"),
        ({"route": older}, ": 0}"),
        ({"images": 500}, "on the whole test set is not recorded"),
    ):
        changed(SHIPPED, file, accuracy, **figures)
        with pytest.raises(click.ClickException, match=f"{message}.*'python -m studies shipped run' measures it"):
            measured.read(ships, file)
    parameters = {each.name: each.parameters for each in measured.read(ships, SHIPPED)}
    assert parameters.keys() == {route.NAME, *(model.name for model in ships)}
    assert [*parameters.values()] == sorted(parameters.values())
    assert parameters[route.NAME] == sum(parameters[member.partition("@")[0]] for member in now["versions"])
    results.write(file, [line for line in results.read(SHIPPED).values() if line.get("model") != route.NAME])
    assert route.NAME not in readme_part.part(ships, file)


def test_figures_of_another_file_than_the_one_that_ships_are_refused(ships: list[ShippedModel], file: Path) -> None:
    changed(CALIBRATION, file, ships[0].name, graph_digest="other")
    with pytest.raises(
        click.ClickException, match=rf"no calibration of {ships[0].name} version \d as it ships; measure it with"
    ):
        section.lines_of(ships, file)
    digests = results.read(CASCADES)["conditions"]["graph_digests"]
    changed(CASCADES, file, "conditions", graph_digests=dict.fromkeys(digests, "other"))
    with pytest.raises(click.ClickException, match=r"no curve of \w+ version \d as it ships; measure it with"):
        cascades.part(file)
