"""Runs that crash or keep their last checkpoint, and the comparison of two outcomes."""

from pathlib import Path
from typing import Any

from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from tests.training.configs import figures, same_weights, weights


class CheckpointKeptRun(Run):
    """Keeps the last checkpoint of a finished run, to compare the final weights and the optimizer too."""

    def drop_checkpoint(self) -> None:
        pass


class CrashError(Exception):
    pass


class CrashingRun(CheckpointKeptRun):
    """Raises CrashError before its nth write."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(folder)
        self.left = writes

    def _spend(self) -> None:
        if self.left == 0:
            raise CrashError
        self.left -= 1

    def start(self, config: RunConfig) -> None:
        self._spend()
        super().start(config)

    def save(self, name: str, state: Any) -> None:
        self._spend()
        super().save(name, state)

    def write_metrics(self, metrics: Any) -> None:
        self._spend()
        super().write_metrics(metrics)

    def drop_checkpoint(self) -> None:
        self._spend()


def assert_same_outcome(folder: Path, unbroken: Path) -> None:
    assert figures(Run(folder).read_metrics()) == figures(Run(unbroken).read_metrics())
    assert same_weights(weights(folder), weights(unbroken))
    if Run(folder).has("checkpoint.pt"):
        one, other = Run(folder).load("checkpoint.pt"), Run(unbroken).load("checkpoint.pt")
        assert same_weights(one["model"], other["model"])
        assert [same_weights(*states) for states in zip(one["rng"], other["rng"], strict=True)] == [True]
        for index, state in other["optimizer"]["state"].items():
            assert same_weights(one["optimizer"]["state"][index], state)
