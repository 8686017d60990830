"""A dry run says what the real run then takes, leaves nothing, and refuses what the real run would refuse."""

import re
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result

from hangtag.cli import main
from hangtag.training import dry_run
from hangtag.training.catalog import recipe_for
from hangtag.training.data.fashion_mnist import FashionMnist, Images
from hangtag.training.data.multi_label import MultiLabelData
from hangtag.training.dry_run import Forecast
from hangtag.training.processes import launch
from hangtag.training.recipes import Distillation
from tests.kit.forkserver import Forked
from tests.training.command import EPOCHS, contents, hangtag, one_error
from tests.training.configs import make_config
from tests.training.processes.ranks import fork

pytestmark = pytest.mark.slow

FORECAST = Forecast(
    samples={"train": 55_000, "validation": 5_000, "test": 10_000},
    image_size=(28, 28),
    labels=10,
    parameters=162_574,
    epochs=10,
    steps=1_719,
    measured_steps=30,
    step_seconds=0.007,
    epoch_seconds=1.5,
    teacher_seconds=20.0,
    final_seconds=4.0,
    memory=512_000_000,
    gpu_memory=None,
    slowdown=1.0,
)


def test_what_repeats_is_multiplied() -> None:
    assert FORECAST.seconds == pytest.approx(20 + 10 * (1_719 * 0.007 + 1.5) + 4)
    shown = dict(FORECAST.lines())
    assert shown["images"] == ("train 55,000, validation 5,000, test 10,000, each of 28 by 28 pixels; 10 labels")
    assert shown["network"] == "162,574 parameters, 0.7 MB in FP32"
    assert shown["steps"] == "10 epochs of 1,719: 17,190"
    assert shown["memory"] == "about 512 MB: the peak of this dry run"
    assert shown["time"].startswith("about 2.7 minutes on this machine: 7.00 ms a step, measured over 30; ")
    assert shown["time"].endswith("20 s for the teacher's logits")
    assert dict(replace(FORECAST, gpu_memory=10**9).lines())["memory"].startswith(
        "about 512 MB, and 1,000 MB of the GPU"
    )
    assert "a step took 3.0 times as long as it computes" in dict(replace(FORECAST, slowdown=3.0).lines())[""]


@pytest.mark.parametrize(("seconds", "text"), [(12.6, "13 seconds"), (648, "10.8 minutes"), (18_360, "5.1 hours")])
def test_times_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    step = replace(
        FORECAST, epochs=1, steps=1, step_seconds=seconds, epoch_seconds=0, teacher_seconds=0, final_seconds=0
    )
    assert dict(step.lines())["time"].startswith(f"about {text} on this machine: {seconds * 1000:,.0f} ms a step")


def test_it_needs_the_memory_of_the_real_run_and_leaves_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in processes of their own, since the memory is that of a process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = [*arguments, "--epochs", "2", "--out", "run"]
    dry = output_of(Forked(reporting_its_peak, [*command, "--dry-run"]))
    assert not [path.name for path in tmp_path.iterdir() if path.name == "run" or "dry-run" in path.name]
    real = output_of(Forked(reporting_its_peak, command))
    (forecast,) = re.findall(r"^memory +about (\d+) MB: ", dry, re.MULTILINE)
    assert int(forecast) == pytest.approx(int(real.splitlines()[-1]) / 1e6, rel=0.1)


def reporting_its_peak(command: list[str]) -> None:
    main(command, standalone_mode=False)
    sys.stdout.write(f"{dry_run.peak_memory()}\n")
    sys.stdout.flush()


def output_of(process: Forked) -> str:
    """What the process writes to standard output, once it has ended well."""
    with process:
        output, errors = process.communicate(240)
        assert process.returncode == 0, errors
    return output


@pytest.mark.usefixtures("few_test_images")
def test_it_says_what_the_run_would_do_with_its_folder_and_changes_nothing(
    arguments: list[str], finished: tuple[Path, Result], broken_off: Path, tmp_path: Path
) -> None:
    def state(folder: Path, *more: str) -> str:
        before = contents(folder) if folder.exists() else None
        result = hangtag([*arguments, "--dry-run", *more], folder)
        assert result.exit_code == 0, result.output
        assert (contents(folder) if folder.exists() else None) == before
        head, *rest = result.stdout.splitlines()
        assert [line.split()[0] for line in rest[:6]] == ["data", "images", "network", "steps", "memory", "time"]
        assert f"{EPOCHS} epochs of 20: {EPOCHS * 20}" in result.stdout
        return head.removeprefix(f"run       {folder}: ")

    assert state(tmp_path / "new") == "a new run"
    assert state(broken_off) == f"it holds this run, 1 of {EPOCHS} epochs; it would go on"
    assert state(finished[0]) == "it holds this run, finished; nothing would be trained"
    assert state(finished[0], "--restart") == "the run there would be replaced"


def test_it_refuses_what_the_run_would_refuse(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    other = [*arguments, "--seed", "1"]
    assert one_error(hangtag([*other, "--dry-run"], finished[0])) == one_error(hangtag(other, finished[0]))
    orphan = tmp_path / "orphan"
    orphan.mkdir()
    shutil.copy(finished[0] / "best.pt", orphan)
    assert "so their run is unknown" in one_error(hangtag([*arguments, "--dry-run"], orphan))
    (tmp_path / "file").touch()
    assert "Not a directory" in one_error(hangtag([*arguments, "--dry-run"], tmp_path / "file/run"))


def test_a_teacher_answers_a_few_batches(small: FashionMnist) -> None:
    answered = []

    def teacher(images: Images) -> npt.NDArray[np.float32]:
        answered.append(len(images))
        return np.zeros((len(images), 10), np.float32)

    config = replace(make_config(limit=1_600), recipe=replace(recipe_for("best", "lstm"), epochs=7, batch_size=32))
    forecast = dry_run.measure(config, small, teacher)
    assert answered == [500, 500, 500]
    assert forecast.teacher_seconds > 0
    assert (forecast.epochs, forecast.steps, forecast.measured_steps) == (7, 50, 30)
    assert forecast.samples == {"train": 1_600, "validation": 1_600, "test": 100}


def test_a_teacher_of_augmented_images_is_expected_to_answer_every_view(small: FashionMnist) -> None:
    def forecast(views: int) -> dry_run.Forecast:
        def teacher(images: Images) -> npt.NDArray[np.float32]:
            time.sleep(len(images) * 1e-5)
            return np.zeros((len(images), 10), np.float32)

        recipe = replace(recipe_for("best", "lstm"), distillation=Distillation("a", 0.5, 2.0, views=views))
        return dry_run.measure(replace(make_config(limit=1_000), recipe=recipe), small, teacher)

    assert forecast(4).teacher_seconds == pytest.approx(4 * forecast(1).teacher_seconds, rel=0.5)


def test_a_run_of_a_few_steps_is_measured_over_what_there_is(small: FashionMnist, plain: MultiLabelData) -> None:
    forecast = dry_run.measure(make_config(limit=32), small)
    assert (forecast.steps, forecast.measured_steps) == (1, 1)
    assert forecast.step_seconds > 0
    sets = dry_run.measure(replace(make_config("sigmoids", limit=96), dataset="outfits"), plain)
    assert (sets.steps, sets.measured_steps, sets.labels, sets.image_size) == (3, 1, 4, (64, 64))


def test_the_ranks_memory_is_added_up(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "start_processes", partial(fork, outputs=tmp_path / "outputs.txt"))
    done = hangtag([*arguments, "--limit", "128", "--dry-run", "--processes", "2"], tmp_path / "run")
    output = (tmp_path / "outputs.txt").read_text()
    assert done.exit_code == 0, output
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.txt"]
    assert output.count("a new run") == 1
    (memory,) = re.findall(r"^memory +about ([\d,]+) MB: ", output, re.MULTILINE)
    assert int(memory.replace(",", "")) > 600  # the data and PyTorch take more than 300 in each
