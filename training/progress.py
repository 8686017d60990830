"""A run in the terminal: the progress bar, and what Ctrl-C does."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hangtag.training.observer import Observer, StepProgress

_FIGURES = ("validation_accuracy", "validation_o_f1", "validation_exact_match")


class TerminalObserver(Observer):
    """Shows progress bars on standard error, and requests a stop after Ctrl-C."""

    def __init__(self, epochs: int, *, shown: bool) -> None:
        self._epochs, self._shown, self._interrupted = epochs, shown, False
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )

    def on_step(self, progress: StepProgress) -> None:
        if progress.step % 10 and progress.step not in (1, progress.steps):
            return
        figures = f"loss {progress.loss:.3f}"
        for name in _FIGURES:
            if progress.last_epoch and name in progress.last_epoch:
                figures += f"  {name.replace('_', ' ')} {progress.last_epoch[name]:.2%}"
        done, total = (progress.epoch - 1) * progress.steps + progress.step, self._epochs * progress.steps
        self._show("training", f"epoch {progress.epoch}/{self._epochs}", done, total, figures)

    def on_teacher_logits(self, done: int, total: int) -> None:
        self._show("teacher", "teacher's logits", done, total)

    def on_contention(self, slowdown: float) -> None:
        if self._shown:
            self._bars.console.print(
                f"Other programs use these CPUs: a training step takes {slowdown:.1f} times as long as it computes. "
                "Stop them, or stop this run with Ctrl-C and continue it with fewer --threads.",
                style="yellow",
                highlight=False,
            )

    def stop_requested(self) -> bool:
        return self._interrupted

    def _show(self, bar: str, description: str, done: int, total: int, figures: str = "") -> None:
        if not self._shown:
            return
        self._bars.start()  # only now: a bar that never moves would leave an empty line
        task = next((task for task in self._bars.tasks if task.fields["bar"] == bar), None)
        identity = task.id if task else self._bars.add_task(description, bar=bar, figures="")
        self._bars.update(identity, description=description, completed=done, total=total, figures=figures)

    @contextmanager
    def _handling_interrupts(self) -> Iterator[None]:
        """The first Ctrl-C requests a stop between two batches; the second raises KeyboardInterrupt at once.

        The first does not raise, because C code that calls back into Python may discard the exception.
        """

        def on_interrupt(_number: int, _frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        previous = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
            if self._bars.tasks:
                self._bars.stop()


@contextmanager
def terminal_observer(epochs: int, *, shown: bool) -> Iterator[TerminalObserver]:
    """The observer of a run that trains within this context.

    Args:
        epochs: The run's number of epochs, for the length of the bar.
        shown: Whether this process shows the bar; Ctrl-C is handled either way.
    """
    observer = TerminalObserver(epochs, shown=shown)
    with observer._handling_interrupts():
        yield observer
