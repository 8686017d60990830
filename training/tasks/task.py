"""The interface between the training loop and a task.

The loop knows steps and epochs, a task knows labels and losses.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Images
from hangtag.training.losses.outcome import BatchOutcome
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Augmentation
from hangtag.training.runs.run import Run

Teacher = Callable[[Images], npt.NDArray[np.float32]]
"""A trained model that another learns from: uint8 images [n, ...] to logits [n, labels]."""


class Task(Protocol):
    """What a network learns, and how it is measured.

    Attributes:
        images: To learn from, uint8 [views, height, width] or [views, height, width, 3], on the device. There are as
            many as samples, or several views of each.
        image: Describes them.
        augmentation: How they are changed in every step.
        selection_metric: The figure of ``validate`` that selects the best epoch: the higher the better.
    """

    images: Tensor
    image: ImageSpec
    augmentation: Augmentation
    selection_metric: str

    def __len__(self) -> int:
        """The number of training samples."""

    def precompute(self, group: ProcessGroup, run: Run) -> None:
        """Compute, before the first step, what all epochs share, or read it from the run's folder.

        Called with the random state that the run's seed gives, whether the run is new or resumed.
        """

    def choose_views(self, samples: Tensor) -> Tensor:
        """Indices into ``images`` [batch] of one view of each sample [batch], by torch's global random state."""

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> BatchOutcome:
        """The forward pass and the loss.

        Args:
            network: The network in training mode.
            pixels: FP32 [batch, channels, height, width], augmented.
            samples: Which samples they are of, [batch].
            views: Which of ``images`` they are, [batch].
        """

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        """The epoch's figures on the validation split; NaN where the network's outputs are not finite."""

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures of the best epoch's network. This method alone uses the test split."""
