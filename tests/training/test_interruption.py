"""A run that is killed or stopped, and then resumed, ends with exactly the weights of an uninterrupted run."""

import shlex
import shutil
import signal
from pathlib import Path

import pytest

from hangtag.training.progress import Observer
from tests.kit import forkserver, garments, shipped
from tests.kit.command import invoke, refusal
from tests.training.small_runs import (
    EPOCHS,
    TRAINED,
    DiedError,
    Finished,
    assert_same_outcome,
    command,
    config,
    dying,
    learn,
    read,
    same_weights,
    state,
    train,
    wait_for_file,
    weights,
)

pytestmark = pytest.mark.slow


def trained(arguments: list[str], folder: Path) -> Path:
    invoke(*arguments, "--out", folder)
    return folder


# Killed runs.


@pytest.mark.usefixtures("few_test_images")
def test_a_run_that_dies_before_any_of_its_writes_resumes(tmp_path: Path) -> None:
    unbroken = trained(command("lstm", epochs=2), tmp_path / "unbroken")
    for writes in range(20):
        folder = tmp_path / str(writes)
        try:
            with dying(writes):
                invoke(*command("lstm", epochs=2), "--out", folder)
        except DiedError:
            assert "summary" not in (read(folder) if (folder / "metrics.json").exists() else {})
            assert_same_outcome(trained(command("lstm", epochs=2), folder), unbroken)
        else:
            break
    # At least 7 writes: config.json, the best weights, two checkpoints, metrics.json after each epoch, and the summary.
    assert writes >= 7


@pytest.mark.usefixtures("forkable")
def test_a_killed_command_resumes_with_every_state_that_a_recipe_has(tmp_path: Path) -> None:
    """The recipe has Muon, a schedule, averaged weights, batch normalisation, dropout, augmentation and a teacher."""
    recipe = ("--recipe", "same-view", "--teacher", shipped.latest("lstm"))
    arguments = command("cnn", *recipe, "--set", "batch_size=32", limit=40, epochs=6)  # two steps per epoch
    folders = tmp_path / "killed", tmp_path / "unbroken"
    with forkserver.hangtag([*arguments, "--out", folders[0]], first=garments.FEW_FIRST) as process:
        wait_for_file(folders[0] / "metrics.json", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len(read(folders[0])["epochs"]) < 6
    assert "summary" not in read(folders[0])
    asked = (folders[0] / "teacher.pt").stat().st_mtime_ns
    assert state(folders[0], "teacher.pt")["logits"].shape == (8 * 40, 10)
    with pytest.MonkeyPatch.context() as patch:
        garments.use_few(patch)
        with dying(writes=1), pytest.raises(DiedError):
            invoke(*arguments, "--out", folders[0])
        assert (folders[0] / "teacher.pt").stat().st_mtime_ns == asked  # the teacher's recorded answers are used
        for folder in folders:
            trained(arguments, folder)
    assert_same_outcome(*folders)


def test_ctrl_c_ends_with_one_line_and_the_run_resumes(finished: Finished, tmp_path: Path) -> None:
    with forkserver.hangtag([*TRAINED, "--out", tmp_path / "run"], first=garments.FEW_FIRST) as process:
        wait_for_file(tmp_path / "run" / "checkpoint.pt", process)
        process.send_signal(signal.SIGSTOP)  # the run must not finish before the signal
        for options in ([], ["--restart"]):
            at_work = refusal(*TRAINED, *options, "--out", tmp_path / "run")
            assert f"another process is training in {tmp_path / 'run'}" in at_work
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert 1 <= len(read(tmp_path / "run")["epochs"]) < EPOCHS
    stopped, _, resume = stderr.splitlines()[-1].partition(": hangtag ")
    assert stopped == "stopped. Continue from the last finished epoch with"
    with pytest.MonkeyPatch.context() as patch:
        garments.use_few(patch)
        epochs = len(read(tmp_path / "run")["epochs"])
        assert f"\ncontinuing after epoch {epochs} of {EPOCHS}\n" in invoke(*shlex.split(resume)).stderr
    assert_same_outcome(tmp_path / "run", finished.folder)


class StopAt(Observer):
    """Lets the first ``time`` checks pass, and asks the run to stop at every later check."""

    def __init__(self, time: int) -> None:
        self.left = time

    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_stop_requested_anywhere_ends_the_run_which_resumes(tmp_path: Path) -> None:
    """A run can stop between steps, between batches of validation, and between batches of the summary."""
    unbroken, data = tmp_path / "unbroken", garments.few()
    learn(config(), data, unbroken)
    stops = 0
    for time in range(100):
        folder = tmp_path / str(time)
        try:
            learn(config(), data, folder, StopAt(time))
        except KeyboardInterrupt:
            stops += 1
            assert not (folder / "metrics.json").exists() or "summary" not in read(folder)
            if time % 3 == 0:
                learn(config(), data, folder)
                assert_same_outcome(folder, unbroken)
        else:
            break
    # Each of 2 epochs has 3 steps, 2 summaries and a validation; at the end, 2 splits are evaluated.
    assert stops >= 2 * (3 + 2 + 1) + 2


@pytest.mark.usefixtures("few_test_images")
def test_the_command_to_resume_has_every_option(tmp_path: Path) -> None:
    models = [Path(shutil.copy(shipped.latest(name), tmp_path / f"a {name}.onnx")) for name in ("cnn", "lstm")]
    options = [
        "train", "cnn", "--recipe", "same-view", *(f"--teacher={model}" for model in models),
        "--select", "balanced_accuracy", "--balance", "--seed", "3",
        "--limit", "8", "--epochs", "1", "--threads", "1", "--precision", "bf16", "--device", "cpu",
    ]  # fmt: skip
    with dying(writes=3), pytest.raises(DiedError):  # config.json, teacher.pt, best.pt
        invoke(*options, "--restart", "--out", tmp_path / "a run")
    message = refusal("export", tmp_path / "a run")
    _, _, resume = message.partition(" is not finished (0 epochs so far). Continue with: hangtag ")
    words = shlex.split(resume)
    for option in [*options, "--out", str(tmp_path / "a run")]:
        assert option.split("=")[-1] in words
    assert "--restart" not in words
    invoke(*words)
    assert "summary" in read(tmp_path / "a run")


@pytest.mark.usefixtures("few_test_images")
def test_bf16_changes_the_weights_which_stay_fp32(tmp_path: Path) -> None:
    for name, *options in (("one",), ("rough", "--precision", "bf16")):
        train("cnn", tmp_path / name, *options, limit=40)
    assert not same_weights(weights(tmp_path / "one"), weights(tmp_path / "rough"))
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "rough").values()} == {"torch.float32"}
    losses = [read(tmp_path / name)["epochs"][0]["train_loss"] for name in ("one", "rough")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
