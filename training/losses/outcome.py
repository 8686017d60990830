"""What every loss gives the training loop for one batch."""

from typing import NamedTuple

from torch import Tensor


class BatchOutcome(NamedTuple):
    """The mean loss, a scalar to differentiate, and the number of samples that were predicted correctly."""

    loss: Tensor
    correct: Tensor
