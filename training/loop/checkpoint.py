"""The state of a run between two epochs: saving it, selecting the best weights, and continuing a killed run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hangtag.training.errors import DivergedError, RunMismatchError
from hangtag.training.loop import optimisation
from hangtag.training.networks.normalisation import fold_batch_norm
from hangtag.training.processes import ProcessGroup
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import RESTART_HINT, Run
from hangtag.training.tasks.task import Task


class TrainingState:
    """The network with its optimizer, schedule and moving average, and the metrics of the finished epochs."""

    def __init__(self, network: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        self.network = network
        self.optimizer = optimisation.optimizer(network, recipe)
        self.scheduler = optimisation.scheduler(self.optimizer, recipe, steps_per_epoch)
        self.average = optimisation.average(network, recipe)
        self.rows: list[dict[str, float]] = []  # one row per finished epoch
        parts = {"model": network, "optimizer": self.optimizer, "scheduler": self.scheduler, "average": self.average}
        self.parts: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and save, with the averaged weights if the recipe averages the weights."""
        return self.network if self.average is None else self.average.module


def random_state(device: str) -> dict[str, torch.Tensor]:
    """Return this process's random state on the CPU and, if the process trains on a GPU, on the GPU."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if device == "cuda" else state


def diverged(what: str, epoch: float, config: RunConfig) -> DivergedError:
    """Return the error of a run whose numbers are no longer finite, with advice that applies to this run."""
    kept = "The best weights from earlier epochs are kept. " if epoch > 1 else ""
    exact = "--precision fp32, " if config.precision != "fp32" else ""
    return DivergedError(f"{what}. {kept}Try {exact}another --seed, or a lower rate with --set learning_rate=RATE.")


def validate(row: dict[str, float], config: RunConfig, task: Task, state: TrainingState, run: Run) -> dict[str, float]:
    """Add the validation split's metrics to the epoch's row, and save the weights if they are the best so far.

    Of several epochs with the same metric, the first is the best; but if the pictures are the user's own, the epoch
    with the lowest validation loss is the best, because their validation split may be small.
    """
    deployable = fold_batch_norm(state.evaluated)
    row |= task.validate(deployable)
    metric = task.selection_metric
    if not math.isfinite(row[metric]):  # the last step may make the weights diverge, and no later loss would show that
        raise diverged(f"the network's outputs are not finite after epoch {row['epoch']}", row["epoch"], config)
    by_loss = config.pictures is not None
    ranks = [(each[metric], -each["validation_loss"] if by_loss else 0.0) for each in (*state.rows, row)]
    if ranks[-1] > max(ranks[:-1], default=(-1.0, 0.0)):
        run.save("best.pt", {"model": deployable.state_dict(), "epoch": row["epoch"]})
    return row


def save(state: TrainingState, random_states: list[dict[str, torch.Tensor]], run: Run) -> None:
    """Write a checkpoint with the random states of all ranks, and then metrics.json with the same epochs."""
    states = {name: part.state_dict() for name, part in state.parts.items()}
    run.save("checkpoint.pt", {**states, "rows": state.rows, "rng": random_states})
    run.write_json("metrics.json", {"epochs": state.rows})


def resume(state: TrainingState, run: Run, group: ProcessGroup) -> None:
    """Restore the last checkpoint, if there is one. Raises RunMismatchError for files of another run."""
    if not group.on_rank_zero(lambda: run.has("checkpoint.pt")):
        return
    # The best weights are needed at the end, and a broken file must be reported now and not hours later.
    group.on_rank_zero(lambda: _load_best(state, run)[0])
    checkpoint = group.on_rank_zero(lambda: run.load("checkpoint.pt"))
    with _fitting(run, "checkpoint.pt", "a checkpoint of this run"):
        for name, part in state.parts.items():
            part.load_state_dict(checkpoint[name])
        for kind, value in checkpoint["rng"][group.rank].items():
            (torch.cuda.set_rng_state if kind == "cuda" else torch.set_rng_state)(value)
        state.rows = checkpoint["rows"]


def finish(task: Task, state: TrainingState, run: Run) -> dict[str, Any]:
    """Measure the best epoch's network on the validation and test splits, write the summary, and return all metrics."""
    epoch, deployable = _load_best(state, run)
    metric = task.selection_metric
    figures = [row[metric] for row in state.rows]
    summary = {"best_epoch": epoch, f"peak_{metric}": max(figures), f"final_{metric}": figures[-1]}
    metrics = {"epochs": state.rows, "summary": summary | task.summarise(deployable)}
    run.write_json("metrics.json", metrics)
    for name in ("checkpoint.pt", "teacher.pt"):
        (run.folder / name).unlink(missing_ok=True)
    return metrics


def _load_best(state: TrainingState, run: Run) -> tuple[int, nn.Module]:
    """Return the number and the network of the best epoch."""
    best, deployable = run.load("best.pt"), fold_batch_norm(state.network)
    with _fitting(run, "best.pt", "the weights of this run's network"):
        deployable.load_state_dict(best["model"])
        return int(best["epoch"]), deployable


@contextmanager
def _fitting(run: Run, name: str, expected: str) -> Iterator[None]:
    """Turn the errors that PyTorch raises for the state of another network or optimizer into a RunMismatchError."""
    try:
        yield
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise RunMismatchError(f"{run.folder / name} does not hold {expected}. {RESTART_HINT}") from error
