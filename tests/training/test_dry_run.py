"""A dry run describes the real run, leaves no files, and names what the real run would refuse."""

import re
from pathlib import Path

import pytest

from tests.kit import shipped, voc_files
from tests.kit.command import contents, invoke
from tests.training.small_runs import TRAINED, Finished

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_test_images")]


def forecast(*arguments: object) -> dict[str, str]:
    """The output of a dry run, by its headings."""
    result = invoke("train", *arguments, "--threads", 1, "--device", "cpu", "--dry-run")
    return {line[:8].strip(): line[10:] for line in result.stdout.splitlines()}


@pytest.mark.parametrize("epochs", [1, 20_000])
def test_what_repeats_is_multiplied(epochs: int) -> None:
    shown = forecast("lstm", "--limit", 3_200, "--epochs", epochs)
    assert shown["images"] == "train 3,200, validation 3,200, test 100, each of 28 by 28 pixels; 10 labels"
    assert shown["network"] == "162,574 parameters, 0.7 MB in FP32"
    assert shown["steps"] == f"{epochs * 100:,} in {epochs:,} epochs"
    time, unit, step = re.fullmatch(
        r"about ([\d.]+) (s|minutes|hours) on this machine, at ([\d.]+) ms a step; validation not included",
        shown["time"],
    ).groups()  # type: ignore[union-attr]
    seconds = epochs * 100 * float(step) / 1000
    assert float(time) * {"s": 1, "minutes": 60, "hours": 3600}[unit] == pytest.approx(seconds, rel=0.03, abs=0.6)
    assert (unit == "s") == (epochs == 1)


def test_a_small_data_set_is_enough_and_a_teacher_is_named_as_not_included(tmp_path: Path) -> None:
    data = ("--data", "voc2007", "--data-dir", voc_files.write_bars(tmp_path, 16))
    sets = forecast("sigmoids", *data, "--epochs", 3)
    assert sets["images"] == "train 16, validation 16, test 16, each of 64 by 64 pixels; 20 labels"
    assert sets["steps"] == "3 in 3 epochs"
    best = ("--recipe", "best", "--teacher", shipped.latest("lstm"), "--limit", 300)
    assert forecast("lstm", *best)["time"].endswith("; validation and the teacher not included")


def test_it_leaves_a_run_as_it_is_and_no_new_one(finished: Finished, tmp_path: Path) -> None:
    for folder in (finished.folder, tmp_path / "new"):
        before = contents(folder) if folder.exists() else None
        assert f"run       {folder}, on cpu" in invoke(*TRAINED, "--dry-run", "--out", folder).stdout
        assert (contents(folder) if folder.exists() else None) == before
    other = invoke(*TRAINED, "--set", "flip=true", "--dry-run", "--out", finished.folder)
    assert "time      about " in other.stdout
    assert f"{finished.folder} holds a run with another recipe.augmentation.flip (" in other.stderr
