"""The process group of a run, as the training loop sees it. This one is for a run in a single process.

Several ranks train one network: each computes its share of every batch, and the gradients are averaged, so that the run
takes the same steps as a single process would. Rank 0 alone validates and writes files. distributed.py has the group of
such a run.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class ProcessGroup:
    """Null object: rank 0 in a world of size 1, where every collective operation returns its argument."""

    rank = 0
    world_size = 1
    in_lockstep = False
    """Whether the ranks must leave the training loop at the same step, since each waits for the others' gradients."""

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value, in every rank."""
        return value

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks, in every rank."""
        return [value]

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """The result of work that rank 0 alone does. Every rank raises what rank 0 raises."""
        return work()

    def on_every_rank(self, work: Callable[[], T]) -> T:
        """The result of work that every rank does for itself. Every rank raises the error of the lowest that failed."""
        return work()

    def share_of(self, batch: Tensor) -> tuple[Tensor, float]:
        """This rank's indices of a batch [batch], and the weight of their mean loss.

        With these weights, the average over the ranks is the mean over the batch.
        """
        return batch, 1.0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to call in training steps, whose gradients are averaged over the ranks."""
        return network
