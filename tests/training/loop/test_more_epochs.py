"""A finished run goes on to more epochs as if it had been planned with them, or the error says why it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.errors import RunMismatchError
from hangtag.training.loop import trainer
from hangtag.training.observer import StepProgress
from hangtag.training.runs.run import Run
from tests.training.broken_runs import assert_same_outcome
from tests.training.configs import OnStep, make_config

pytestmark = pytest.mark.slow


def test_more_epochs_end_with_the_weights_of_a_run_that_was_longer_from_the_start(
    small: FashionMnist, unbroken: Path, tmp_path: Path
) -> None:
    """Also if they are interrupted; the epochs that are done are not trained again."""
    run = Run(tmp_path)
    trainer.train(make_config(epochs=1), small, run)

    def interrupt(at: StepProgress) -> None:
        if at.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(make_config(epochs=3), small, run, OnStep(interrupt))
    assert not run.is_finished()
    seen: list[int] = []
    trainer.train(make_config(epochs=3), small, run, OnStep(lambda at: seen.append(at.epoch)))
    assert set(seen) == {3}
    assert run.read_config()["recipe"]["epochs"] == 3
    assert_same_outcome(tmp_path, unbroken)


def test_a_kill_between_the_two_files_does_no_harm(
    small: FashionMnist, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """metrics.json has lost its summary, and config.json still has the old number of epochs."""
    run = Run(tmp_path)
    trainer.train(make_config(epochs=1), small, run)
    run.write_metrics({"epochs": run.read_metrics()["epochs"]})
    assert run.read_config()["recipe"]["epochs"] == 1
    trainer.train(make_config(epochs=3), small, run)
    assert_same_outcome(tmp_path, unbroken)


def test_a_schedule_over_the_whole_run_does_not_go_on(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config(limit=32, epochs=1)
    config = replace(config, recipe=replace(config.recipe, schedule="one_cycle"))
    trainer.train(config, small, Run(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    longer = replace(config, recipe=replace(config.recipe, epochs=2))
    with pytest.raises(
        RunMismatchError, match=r"cannot go on to 2 epochs: the recipe tiny .* \(one_cycle\).*--restart"
    ):
        trainer.train(longer, small, Run(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_a_checkpoint_or_with_fewer_epochs_it_does_not_go_on(small: FashionMnist, tmp_path: Path) -> None:
    run = Run(tmp_path)
    trainer.train(make_config(limit=32, epochs=2), small, run)
    with pytest.raises(
        RunMismatchError, match=r"has 2 epochs already\. To train 1 epochs from the start, choose another"
    ):
        trainer.train(make_config(limit=32, epochs=1), small, run)
    with pytest.raises(RunMismatchError, match=r"another recipe\.epochs and seed \("):
        trainer.train(make_config(limit=32, epochs=3, seed=1), small, run)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(RunMismatchError, match=r"cannot go on to 3 epochs: it has no checkpoint\.pt"):
        trainer.train(make_config(limit=32, epochs=3), small, run)
    assert json.loads((tmp_path / "config.json").read_text())["recipe"]["epochs"] == 2
    assert run.is_finished()
