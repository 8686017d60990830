"""The section of docs/models.md about calibration, from a measurement of a few images and from lines by hand."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from studies import results
from studies.calibration import run, section
from studies.calibration.section import Group
from studies.shipped.models import ShippedModel, read_all
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow
LIMIT = 400


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("calibration")
    (repository / "lstm").symlink_to(MODELS / "lstm")
    return repository


@pytest.fixture(scope="module")
def shipped(repository: Path) -> list[ShippedModel]:
    return read_all(repository)


@pytest.fixture(scope="module")
def measured(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "results.jsonl"
    result = CliRunner().invoke(run.main, ["--models", str(repository), "--limit", str(LIMIT), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_a_measurement_becomes_the_section(measured: Path, shipped: list[ShippedModel]) -> None:
    line = results.read(measured)["lstm"]
    assert line["validation_images"] == line["test_images"] == LIMIT
    assert line["after"]["cross_entropy"] != line["before"]["cross_entropy"]
    assert line["after"]["bins"]["counts"] != line["before"]["bins"]["counts"]
    assert sum(line["after"]["bins"]["counts"]) == LIMIT
    text = "\n".join(section.lines_of(shipped, measured))
    version = shipped[0].version
    errors = [f"{line[side]['error']:.2%}".replace("%", " %") for side in ("before", "after")]
    assert f"| `lstm` version {version} | " in text
    assert " → ".join(errors) in text
    assert f"The {LIMIT:,} test images" in text
    (axes,) = section.diagram(section.read(shipped, measured)).axes
    assert axes.get_title(loc="left") == f"lstm version {version}"


def test_another_file_than_the_measured_one_is_refused(
    measured: Path, shipped: list[ShippedModel], tmp_path: Path
) -> None:
    lines = results.read(measured)
    lines["lstm"]["graph_digest"] = "other"
    results.write(tmp_path / "results.jsonl", lines.values())
    with pytest.raises(
        click.ClickException, match=r"has no calibration of lstm version \d as it ships; measure it with"
    ):
        section.lines_of(shipped, tmp_path / "results.jsonl")


def test_the_shares_confidence_and_accuracy_of_some_bins() -> None:
    bins = {"counts": [0, 30, 10, 60], "confidence": [0, 0.4, 0.8, 0.9], "accuracy": [0, 0.5, 0.7, 1.0]}
    assert vars(Group.of(bins, section.SURE)) == pytest.approx({"share": 0.6, "confidence": 0.9, "accuracy": 1.0})
    assert vars(Group.of(bins, section.OTHERS)) == pytest.approx({"share": 0.4, "confidence": 0.5, "accuracy": 0.55})


@pytest.mark.parametrize(("confidence_after", "is_said"), [(0.9, True), (0.55, False)])
def test_that_a_temperature_spoils_the_doubtful_answers_is_said_only_where_it_does(
    confidence_after: float, is_said: bool, measured: Path, shipped: list[ShippedModel], tmp_path: Path
) -> None:
    """As trained the doubtful half is right about half of the time, and 60 % sure."""
    lines = results.read(measured)
    for side, confidence in (("before", 0.6), ("after", confidence_after)):
        bins = {"counts": [50, 50], "confidence": [confidence, 0.95], "accuracy": [0.5, 0.95]}
        lines["lstm"][side] |= {"bins": bins}
    results.write(tmp_path / "results.jsonl", lines.values())
    text = "\n".join(section.lines_of(shipped, tmp_path / "results.jsonl"))
    assert ("makes the others too sure of themselves" in text) is is_said


@pytest.mark.parametrize(
    ("confidence", "temperature", "verdict", "shipped_text"),
    [
        (
            0.90,
            None,
            "`lstm` is right more often than its probabilities say, by 5.0 points on average.",
            "The files that ship have none.",
        ),
        (
            0.99,
            "1.31",
            "`lstm` is right less often than its probabilities say, by 4.0 points on average.",
            "Of the files that ship, those of `lstm` have one.",
        ),
    ],
)
def test_the_sentences_follow_the_figures(
    confidence: float, temperature: str | None, verdict: str, shipped_text: str,
    measured: Path, shipped: list[ShippedModel], tmp_path: Path,
) -> None:  # fmt: skip
    lines = results.read(measured)
    lines["lstm"] |= {"accuracy": 0.95, "shipped_temperature": temperature}
    lines["lstm"]["before"]["confidence"] = confidence
    results.write(tmp_path / "results.jsonl", lines.values())
    text = "\n".join(section.lines_of(shipped, tmp_path / "results.jsonl"))
    assert verdict in text
    assert shipped_text in text
