"""A dry run says what the real run then takes, leaves nothing, and refuses what the real run would refuse."""

import re
import shutil
from pathlib import Path

import pytest

from tests.kit import shipped, voc_files
from tests.kit.command import contents, invoke, refusal
from tests.training.small_runs import EPOCHS, TRAINED, Finished

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_test_images")]


def forecast(*arguments: object) -> dict[str, str]:
    """What a dry run prints, by its headings."""
    result = invoke("train", *arguments, "--threads", 1, "--device", "cpu", "--dry-run")
    return {line[:8].strip(): line[10:] for line in result.stdout.splitlines()}


@pytest.mark.parametrize("epochs", [1, 20_000, 2_000_000])
def test_what_repeats_is_multiplied(epochs: int) -> None:
    shown = forecast("lstm", "--limit", 3_200, "--epochs", epochs)
    assert shown["images"] == "train 3,200, validation 3,200, test 100, each of 28 by 28 pixels; 10 labels"
    assert shown["network"] == "162,574 parameters, 0.7 MB in FP32"
    assert shown["steps"] == f"{epochs:,} epochs of 100: {epochs * 100:,}"
    total, unit, step = re.fullmatch(
        r"about ([\d.]+) (\w+) on this machine, at ([\d.]+) ms a step; validation is not included", shown["time"]
    ).groups()  # type: ignore[union-attr]
    assert unit == "hours" or float(total) <= 90
    assert epochs < 2_000_000 or unit == "hours"
    seconds = {"minutes": 60, "hours": 3600}[unit]
    rounding = epochs * 100 * 0.000005 + 0.05 * seconds
    assert float(total) * seconds == pytest.approx(epochs * 100 * float(step) / 1000, abs=rounding + 0.5)


def test_steps_are_measured_over_what_there_is(tmp_path: Path) -> None:
    assert " ms a step;" in forecast("lstm", "--limit", 32)["time"]
    data = ("--data", "voc2007", "--data-dir", voc_files.write_bars(tmp_path, 16))
    sets = forecast("sigmoids", *data, "--epochs", 3)
    assert sets["images"] == "train 16, validation 16, test 16, each of 64 by 64 pixels; 20 labels"
    assert sets["steps"] == "3 epochs of 1: 3"


def test_the_logits_of_a_teacher_are_named_as_not_included() -> None:
    best = ("--recipe", "best", "--teacher", shipped.latest("lstm"), "--limit", 300)
    assert forecast("lstm", *best)["time"].endswith("; validation is not included, nor are the teacher's logits")


def test_it_says_what_the_run_would_do_with_its_folder_and_changes_nothing(
    finished: Finished, broken_off: Path, tmp_path: Path
) -> None:
    def state(folder: Path, *more: str) -> str:
        before = contents(folder) if folder.exists() else None
        result = invoke(*TRAINED, "--dry-run", *more, "--out", folder)
        assert (contents(folder) if folder.exists() else None) == before
        head, *rest = result.stdout.splitlines()
        assert [line.split()[0] for line in rest] == ["data", "images", "network", "steps", "time"]
        assert f"{EPOCHS} epochs of 20: {EPOCHS * 20}" in result.stdout
        return head.removeprefix(f"run       {folder}: ")

    assert state(tmp_path / "new") == "a new run"
    assert state(broken_off) == f"it holds this run, 1 of {EPOCHS} epochs; it would go on"
    assert state(finished.folder) == "it holds this run, finished; nothing would be trained"
    assert state(finished.folder, "--restart") == "the run there would be replaced"


def test_it_refuses_what_the_run_would_refuse(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    other = (*TRAINED, "--seed", "1")
    assert refusal(*other, "--dry-run", "--out", folder) == refusal(*other, "--out", folder)
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(*TRAINED, "--dry-run", "--out", tmp_path / "file/run")
