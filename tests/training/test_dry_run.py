"""A dry run says what the real run then takes, leaves nothing, and refuses what the real run would refuse."""

import re
import sys
from pathlib import Path

import pytest

from hangtag.cli import main
from tests.kit import garments, shipped, voc_files
from tests.kit.command import contents, invoke
from tests.kit.forkserver import Forked
from tests.training.small_runs import EPOCHS, TRAINED, Finished

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_test_images")]

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}


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
    assert re.fullmatch(r"about [\d,]+ MB: the peak of this dry run", shown["memory"])
    total, unit, step, steps, epoch, end = re.fullmatch(
        r"about ([\d.]+) (\w+) on this machine: ([\d.]+) ms a step, measured over (\d+); "
        r"([\d.]+) s after each epoch, ([\d.]+) s at the end",
        shown["time"],
    ).groups()  # type: ignore[union-attr]
    assert steps == "30"
    assert unit == "hours" or float(total) <= {"seconds": 60, "minutes": 90}[unit]
    assert epochs < 2_000_000 or unit == "hours"
    expected = epochs * (100 * float(step) / 1000 + float(epoch)) + float(end)
    rounding = epochs * (100 * 0.000005 + 0.05) + 0.05 + 0.05 * UNITS[unit]
    assert float(total) * UNITS[unit] == pytest.approx(expected, abs=rounding + 0.5)


def test_steps_are_measured_over_what_there_is(tmp_path: Path) -> None:
    assert "measured over 1;" in forecast("lstm", "--limit", 32)["time"]
    data = ("--data", "voc2007", "--data-dir", voc_files.write_bars(tmp_path, 16))
    sets = forecast("sigmoids", *data, "--epochs", 3)
    assert sets["images"] == "train 16, validation 16, test 16, each of 64 by 64 pixels; 20 labels"
    assert sets["steps"] == "3 epochs of 1: 3"


def test_the_logits_of_a_teacher_are_named_as_not_included() -> None:
    best = ("--recipe", "best", "--teacher", shipped.latest("lstm"), "--limit", 300)
    assert forecast("lstm", *best)["time"].endswith("; and the teacher's logits, which are not included")


def reporting_its_peak(command: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        garments.use_few(patch)
        main(command, standalone_mode=False)
    sys.stdout.write(Path("/proc/self/status").read_text())
    sys.stdout.flush()


def output_of(process: Forked) -> str:
    """What the process writes to standard output, once it has ended well."""
    with process:
        output, errors = process.communicate(240)
        assert process.returncode == 0, errors
    return output


def test_it_needs_the_memory_of_the_real_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in processes of their own, since the memory is that of a process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = [*TRAINED, "--epochs", "2", "--out", "run"]
    dry = output_of(Forked(reporting_its_peak, [*command, "--dry-run"]))
    assert not [path.name for path in tmp_path.iterdir() if path.name == "run" or "dry-run" in path.name]
    real = output_of(Forked(reporting_its_peak, command))
    (expected,) = re.findall(r"^memory +about (\d+) MB: ", dry, re.MULTILINE)
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", real, re.MULTILINE)
    assert int(expected) == pytest.approx(int(kilobytes) * 1024 / 1e6, rel=0.1)


def test_it_says_what_the_run_would_do_with_its_folder_and_changes_nothing(
    finished: Finished, broken_off: Path, tmp_path: Path
) -> None:
    def state(folder: Path, *more: str) -> str:
        before = contents(folder) if folder.exists() else None
        result = invoke(*TRAINED, "--dry-run", *more, "--out", folder)
        assert (contents(folder) if folder.exists() else None) == before
        head, *rest = result.stdout.splitlines()
        assert [line.split()[0] for line in rest[:6]] == ["data", "images", "network", "steps", "memory", "time"]
        assert f"{EPOCHS} epochs of 20: {EPOCHS * 20}" in result.stdout
        return head.removeprefix(f"run       {folder}: ")

    assert state(tmp_path / "new") == "a new run"
    assert state(broken_off) == f"it holds this run, 1 of {EPOCHS} epochs; it would go on"
    assert state(finished.folder) == "it holds this run, finished; nothing would be trained"
    assert state(finished.folder, "--restart") == "the run there would be replaced"
