"""The state of a run between two epochs: what a killed run needs to continue as if it had never stopped."""

from typing import Any

import torch
from torch import nn

from hangtag.training.loop import optimisation
from hangtag.training.recipes import Recipe

# What PyTorch raises for a state of another network or optimizer, or for something that is not a state.
UNFITTING = (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError)

RandomState = dict[str, torch.Tensor]


class TrainingState:
    """The network, what changes its weights, and the figures of the finished epochs."""

    def __init__(self, network: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        self.network = network
        self.optimizer = optimisation.optimizer(network, recipe)
        self.scheduler = optimisation.scheduler(self.optimizer, recipe, steps_per_epoch)
        self.average = optimisation.average(network, recipe)
        self.rows: list[dict[str, float]] = []  # one per finished epoch

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and save: the moving average of the weights if the recipe has one."""
        return self.network if self.average is None else self.average.module

    @property
    def learning_rate(self) -> float:
        """The rate of the next step; with muon, of its matrices."""
        return float(self.optimizer.param_groups[0]["lr"])

    def checkpoint(self, random_states: list[RandomState]) -> dict[str, Any]:
        """Everything to save, with the random state of every rank."""
        state: dict[str, Any] = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "rng": random_states,
        }
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def restore(self, checkpoint: dict[str, Any], rank: int) -> None:
        """Load a checkpoint and this rank's random state. Raises one of UNFITTING for a checkpoint of another run."""
        self.network.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(checkpoint["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        for kind, value in checkpoint["rng"][rank].items():
            (torch.cuda.set_rng_state if kind == "cuda" else torch.set_rng_state)(value)
        self.rows = checkpoint["rows"]


def random_state(device: str) -> RandomState:
    """This process's random state, on the CPU and, if it trains there, on the GPU."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if device == "cuda" else state
