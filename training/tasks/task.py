"""The interface between the training loop and a task: the loop knows steps and epochs, a task knows data and losses."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hangtag.training.data.fashion_mnist import Images
from hangtag.training.losses.outcome import BatchOutcome
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.run import Run

Teacher = Callable[[Images], npt.NDArray[np.float32]]
"""A trained model that another learns from: uint8 images [n, 28, 28] to logits [n, 10]."""


class Task(Protocol):
    """A network to train, the samples to train it on, and how to measure it."""

    selection_metric: str
    """The figure of validate() that selects the best epoch: the higher the better."""

    def __len__(self) -> int:
        """The number of training samples."""

    def precompute(self, group: ProcessGroup, run: Run) -> None:
        """Compute, before the first step, what all epochs share, or read it from the run's folder.

        Called with the random state that the run's seed gives, whether the run is new or resumed.
        """

    def network(self) -> nn.Module:
        """The network to train, with fresh weights from torch's global random state."""

    def training_step(self, network: nn.Module, indices: Tensor) -> BatchOutcome:
        """The loss of the samples with these indices [batch]. Random choices use torch's global random state."""

    def deployable(self, network: nn.Module) -> nn.Module:
        """A copy in evaluation mode, without what only training needs."""

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        """The epoch's figures on the validation split; NaN where the network's outputs are not finite."""

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures of the best epoch's network. This method alone uses the test split."""
