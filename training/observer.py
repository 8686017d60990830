"""Who looks on while a run works: is told how far it is, and may ask it to stop."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step: the epoch's mean loss as it was last looked at, and the last epoch's figures."""

    epoch: int
    step: int
    steps: int
    loss: float
    last_epoch: dict[str, float] | None


class Watch:
    """One that looks away and never asks to stop: what a run has where nobody gives it another."""

    def step(self, at: Progress) -> None:
        """Called after every step."""

    def taught(self, answered: int, images: int) -> None:
        """Called while teachers answer, with how many of this process's images they have answered."""

    def wants_stop(self) -> bool:
        return False

    def check(self) -> None:
        """Raises KeyboardInterrupt where a stop is wanted. Called between batches, where nothing is half done."""
        if self.wants_stop():
            raise KeyboardInterrupt
