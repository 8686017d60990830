"""The observer of a run: receives its progress, and may request its stop."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StepProgress:
    """Where a run stands after a training step."""

    epoch: int  # from 1
    step: int  # of this epoch, from 1
    steps: int  # per epoch
    loss: float  # the epoch's mean so far, as of the last step at which the trainer summed it up
    figures: Mapping[str, float] | None = None  # at the steps at which the trainer summed up, every tenth or so:
    # loss and accuracy, means over the samples since the last such step, and the learning_rate of this one


class Observer:
    """Null object: ignores progress, never stops the run. Subclasses override what they need."""

    def on_step(self, progress: StepProgress) -> None:
        """Called after every training step."""

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Called with an epoch's figures once they are saved, on rank 0 only."""

    def on_teacher_logits(self, done: int, total: int) -> None:
        """Called while teachers compute logits: how many of this rank's images are done, mirror images included."""

    def stop_requested(self) -> bool:
        """Whether the run should stop. Called after every training step and between batches."""
        return False

    def raise_if_stopped(self) -> None:
        """Raises KeyboardInterrupt if a stop is requested. Called between batches, when no state is half written."""
        if self.stop_requested():
            raise KeyboardInterrupt


class Observers(Observer):
    """Passes everything on to several observers, in their order; each of them may request a stop.

    Example:
        >>> train(config, data, run, Observers(terminal, event_log))
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_step(self, progress: StepProgress) -> None:
        for observer in self._observers:
            observer.on_step(progress)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.on_epoch(row)

    def on_teacher_logits(self, done: int, total: int) -> None:
        for observer in self._observers:
            observer.on_teacher_logits(done, total)

    def stop_requested(self) -> bool:
        return any(observer.stop_requested() for observer in self._observers)
