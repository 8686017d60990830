"""What the training loop asks of a task. The loop knows steps, epochs and checkpoints; a task knows data and losses."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hangtag.training.data.fashion_mnist import Images

Teacher = Callable[[Images], npt.NDArray[np.float32]]
"""A trained model that others learn from: uint8 images [n, 28, 28] to logits [n, 10]."""


class Step(NamedTuple):
    """What came of one batch: the mean loss, a scalar to differentiate, and how many samples were answered right."""

    loss: Tensor
    right: Tensor


class Task(Protocol):
    """A network to train, the samples to train it on, and how to tell how good it has become."""

    selects_by: str
    """The figure of validate() by which the best epoch is told: the higher the better."""

    def __len__(self) -> int:
        """How many samples an epoch has."""

    def network(self) -> nn.Module:
        """The network to train, freshly initialised from torch's global random state."""

    def step(self, network: nn.Module, indices: Tensor) -> Step:
        """Answer the samples with these indices [batch]; random choices come from torch's global random state."""

    def deployable(self, network: nn.Module) -> nn.Module:
        """A copy to keep, in evaluation mode, without what only training needs."""

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        """The epoch's figures on the validation split."""

    def summary(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures of the network that was kept. The test set is looked at here and nowhere else."""
