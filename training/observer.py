"""The observer of a run: receives its progress, and may request its stop."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepProgress:
    """Where a run stands after a training step."""

    epoch: int  # from 1
    step: int  # of this epoch, from 1
    steps: int  # per epoch
    loss: float  # the epoch's mean so far, as of the last step at which the trainer summed it up
    last_epoch: dict[str, float] | None  # the figures of the epoch before this one


class Observer:
    """Null object: ignores progress, never stops the run. Subclasses override what they need."""

    def on_step(self, progress: StepProgress) -> None:
        """Called after every training step."""

    def on_teacher_logits(self, done: int, total: int) -> None:
        """Called while teachers compute logits: how many of this rank's images are done, mirror images included."""

    def on_contention(self, slowdown: float) -> None:
        """Called once, if other programs take the CPUs: a step takes this many times as long as it computes."""

    def stop_requested(self) -> bool:
        """Whether the run should stop. Called after every training step and between batches."""
        return False

    def raise_if_stopped(self) -> None:
        """Raises KeyboardInterrupt if a stop is requested. Called between batches, when no state is half written."""
        if self.stop_requested():
            raise KeyboardInterrupt
