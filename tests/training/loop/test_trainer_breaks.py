import os
import signal
import traceback
from pathlib import Path

import pytest
import torch

from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.errors import RunMismatchError
from hangtag.training.loop import trainer
from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16
from hangtag.training.observer import Observer, StepProgress
from hangtag.training.runs.run import Run
from tests.kit.forkserver import Forked
from tests.training.broken_runs import CheckpointKeptRun, CrashError, CrashingRun, assert_same_outcome
from tests.training.configs import OnStep, make_config, same_weights, weights

pytestmark = pytest.mark.slow


def test_a_finished_run_is_not_trained_again(small: FashionMnist, unbroken: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.iterdir()}
    metrics = trainer.train(make_config(epochs=3), small, Run(unbroken), OnStep(lambda at: pytest.fail("it trained")))
    assert metrics == Run(unbroken).read_metrics()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.iterdir()} == before


@pytest.mark.parametrize("kill_at", [(1, 2), (2, 1), (2, 2), (3, 3)], ids=str)
def test_a_run_interrupted_inside_an_epoch_resumes(
    small: FashionMnist, unbroken: Path, tmp_path: Path, kill_at: tuple[int, int]
) -> None:
    def interrupt(at: StepProgress) -> None:
        if (at.epoch, at.step) == kill_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(make_config(epochs=3), small, CheckpointKeptRun(tmp_path), OnStep(interrupt))
    redone: list[int] = []
    trainer.train(make_config(epochs=3), small, CheckpointKeptRun(tmp_path), OnStep(lambda at: redone.append(at.epoch)))
    assert redone[0] == kill_at[0]  # finished epochs are not trained again
    assert_same_outcome(tmp_path, unbroken)


@pytest.mark.parametrize(("model", "precision"), [("cnn", "fp32"), ("cnn", "bf16"), ("lstm2", "fp32")])
def test_every_network_resumes_as_if_unbroken(small: FashionMnist, tmp_path: Path, model: str, precision: str) -> None:
    def interrupt(at: StepProgress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    config = make_config(model, limit=33, precision=precision)
    trainer.train(config, small, CheckpointKeptRun(tmp_path / "unbroken"))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, small, CheckpointKeptRun(tmp_path / "broken"), OnStep(interrupt))
    trainer.train(config, small, CheckpointKeptRun(tmp_path / "broken"))
    assert_same_outcome(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.skipif(not cpu_computes_lstms_in_bf16(), reason="this CPU computes no LSTM in bfloat16")
def test_bf16_changes_the_arithmetic_and_not_the_weights_type(
    small: FashionMnist, unbroken: Path, tmp_path: Path
) -> None:
    trainer.train(make_config(epochs=3, precision="bf16"), small, Run(tmp_path))
    one, other = weights(tmp_path), weights(unbroken)
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
    assert not same_weights(one, other)
    for rough, fine in zip(Run(tmp_path).read_metrics()["epochs"], Run(unbroken).read_metrics()["epochs"], strict=True):
        assert rough["train_loss"] == pytest.approx(fine["train_loss"], rel=0.02)


def test_a_run_that_dies_before_any_of_its_writes_resumes(small: FashionMnist, unbroken: Path, tmp_path: Path) -> None:
    for writes in range(100):
        folder = tmp_path / str(writes)
        try:
            trainer.train(make_config(epochs=3), small, CrashingRun(folder, writes))
        except CrashError:
            for name in ("checkpoint.pt.tmp", "best.pt.tmp", "metrics.json.tmp"):
                (folder / name).write_bytes(b"half a file")
            trainer.train(make_config(epochs=3), small, CheckpointKeptRun(folder))
            assert_same_outcome(folder, unbroken)
        else:
            break
    assert writes >= 1 + 3 * 2 + 2  # config; checkpoint and metrics of each epoch; a best, the summary


def killed_in_step(raw_dir: Path, folder: Path) -> None:
    def kill(at: StepProgress) -> None:
        if (at.epoch, at.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.train(make_config(epochs=3), fashion_mnist.load(raw_dir), Run(folder), OnStep(kill))


def test_a_process_killed_inside_an_epoch_resumes(
    small: FashionMnist, unbroken: Path, raw_dir: Path, tmp_path: Path
) -> None:
    with Forked(killed_in_step, raw_dir, tmp_path) as process:
        assert process.wait() == -signal.SIGKILL
    assert [row["epoch"] for row in Run(tmp_path).read_metrics()["epochs"]] == [1]
    trainer.train(make_config(epochs=3), small, CheckpointKeptRun(tmp_path))
    assert_same_outcome(tmp_path, unbroken)


def interrupted(small: FashionMnist, folder: Path) -> None:
    def interrupt(at: StepProgress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(make_config(), small, Run(folder), OnStep(interrupt))


class StopAt(Observer):
    """Requests a stop at the nth check and all later ones."""

    def __init__(self, time: int) -> None:
        self.left = time

    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_stop_requested_anywhere_ends_the_run_which_can_resume(
    small: FashionMnist, unbroken: Path, tmp_path: Path
) -> None:
    """Between steps, between batches of validation, and between those of the last summary."""
    phases = set()
    for time in range(200):
        folder = tmp_path / str(time)
        try:
            trainer.train(make_config(epochs=3), small, CheckpointKeptRun(folder), StopAt(time))
        except KeyboardInterrupt as stopped:
            phases |= {frame.name for frame in traceback.extract_tb(stopped.__traceback__)}
            assert not Run(folder).is_finished()
            if time % 3 == 0:
                trainer.train(make_config(epochs=3), small, CheckpointKeptRun(folder))
                assert_same_outcome(folder, unbroken)
        else:
            break
    assert phases > {"_train_epoch", "_validate", "_finish"}


def test_a_broken_best_file_is_reported_before_the_training(small: FashionMnist, tmp_path: Path) -> None:
    interrupted(small, tmp_path)
    good = Run(tmp_path).load("best.pt")
    for state in (
        {"epoch": 1},
        {"model": good["model"]},
        good | {"model": None},
        good | {"model": build("cnn").state_dict()},
        good | {"epoch": None},
    ):
        Run(tmp_path).save("best.pt", state)
        with pytest.raises(RunMismatchError, match=r"best\.pt does not hold weights of this run's network") as caught:
            trainer.train(make_config(), small, Run(tmp_path), OnStep(lambda at: pytest.fail("it trained")))
        assert "\n" not in str(caught.value)
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(RunMismatchError, match=r"best\.pt cannot be read"):
        trainer.train(make_config(), small, Run(tmp_path), OnStep(lambda at: pytest.fail("it trained")))


def test_a_checkpoint_of_another_run_is_refused(small: FashionMnist, tmp_path: Path) -> None:
    interrupted(small, tmp_path)
    good = Run(tmp_path).load("checkpoint.pt")
    for state in (
        Run(tmp_path).load("best.pt"),
        good | {"model": build("cnn").state_dict()},
        good | {"optimizer": torch.optim.Adam(build("cnn").parameters()).state_dict()},
        good | {"rng": [{"cpu": torch.zeros(3, dtype=torch.uint8)}]},
        good | {"rng": []},
    ):
        Run(tmp_path).save("checkpoint.pt", state)
        with pytest.raises(RunMismatchError, match=r"checkpoint\.pt is not a checkpoint of this run") as caught:
            trainer.train(make_config(), small, Run(tmp_path))
        assert "\n" not in str(caught.value)
