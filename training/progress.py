"""A training run seen from the terminal: the progress bar, and what Ctrl-C does."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hangtag.training import observer as watch

_FIGURES = ("validation_accuracy", "validation_o_f1", "validation_exact_match")


class Terminal(watch.Watch):
    """Moves a bar on standard error, and wants to stop once Ctrl-C was pressed."""

    def __init__(self, epochs: int, *, shown: bool) -> None:
        self._epochs, self._shown, self._asked = epochs, shown, False
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )

    def step(self, at: watch.Progress) -> None:
        if at.step % 10 and at.step not in (1, at.steps):
            return
        figures = f"loss {at.loss:.3f}"
        for name in _FIGURES:
            if at.last_epoch and name in at.last_epoch:
                figures += f"  {name.replace('_', ' ')} {at.last_epoch[name]:.2%}"
        done, total = (at.epoch - 1) * at.steps + at.step, self._epochs * at.steps
        self._show("training", f"epoch {at.epoch}/{self._epochs}", done, total, figures)

    def taught(self, answered: int, images: int) -> None:
        self._show("teaching", "asking the teacher", answered, images)

    def wants_stop(self) -> bool:
        return self._asked

    def _show(self, bar: str, description: str, done: int, total: int, figures: str = "") -> None:
        if not self._shown:
            return
        self._bars.start()  # not before: a bar that never moves would leave an empty line
        task = next((task for task in self._bars.tasks if task.fields["bar"] == bar), None)
        identity = task.id if task else self._bars.add_task(description, bar=bar, figures="")
        self._bars.update(identity, description=description, completed=done, total=total, figures=figures)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """A second Ctrl-C raises KeyboardInterrupt wherever it comes, the first where the run says that it may.

        Raised anywhere, it could get lost: C code that calls back into Python may clear what was raised there.
        """

        def on_interrupt(_number: int, _frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        previous = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
            if self._bars.tasks:
                self._bars.stop()


@contextmanager
def watched(epochs: int, *, shown: bool) -> Iterator[Terminal]:
    """The watch of a run that is trained in this context, from the terminal."""
    terminal = Terminal(epochs, shown=shown)
    with terminal._at_work():
        yield terminal
