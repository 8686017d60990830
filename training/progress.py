"""The progress of a run: its observers, its display in a terminal or in a log, and the handling of Ctrl-C."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

_FIGURES = ("accuracy", "o_f1", "exact_match")
LINE_INTERVAL = 60.0  # the seconds between two lines of progress within an epoch, if there is no terminal


class Observer:
    """Null object: ignores progress, and never stops the run. Subclasses override the methods that they need."""

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Receive, after every training step, the epoch and step, counted from 1, the number of steps in an epoch, and
        the epoch's mean loss, which is updated about every ten steps."""

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Receive an epoch's metrics. Rank 0 calls this method after it has saved the metrics."""

    def on_teacher_logits(self, done: int, total: int) -> None:
        """This rank has computed the teachers' logits for ``done`` out of ``total`` images. Mirror images count too."""

    def stop_requested(self) -> bool:
        """Return whether the run should stop."""
        return False

    def raise_if_stopped(self) -> None:
        """Raise KeyboardInterrupt if a stop is requested. Call this between batches, when saved state is complete."""
        if self.stop_requested():
            raise KeyboardInterrupt


class TerminalObserver(Observer, AbstractContextManager["TerminalObserver"]):
    """Shows progress on standard error, as bars in a terminal and as lines in a log, and requests a stop after a Ctrl-C
    in its ``with`` block."""

    def __init__(
        self, epochs: int, *, shown: bool, select: str = "accuracy", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create an observer of a run with this number of epochs. ``select`` is the metric that selects the best epoch.
        Unless ``shown`` is true, the observer only handles Ctrl-C."""
        self._epochs, self._shown, self._interrupted = epochs, shown, False
        self._figures = [f"validation_{name}" for name in dict.fromkeys((*_FIGURES, select))]
        self._last_epoch: Mapping[str, float] = {}
        self._clock, self._next_line = clock, clock() + LINE_INTERVAL
        self._console = Console(stderr=True)
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self._bars = Progress("{task.description}", *columns, "{task.fields[figures]}", console=self._console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "TerminalObserver":
        self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)
        if self._tasks:  # a stopped bar stays on the terminal
            self._bars.stop()

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if step == 1 and epoch > 1 and not self._last_epoch:  # the earlier epochs are in a checkpoint
            self._print(f"continuing after epoch {epoch - 1} of {self._epochs}")
        if step % 10 and step not in (1, steps):
            return
        figures = [f"loss {loss:.3f}", *self._validation_figures(self._last_epoch)]
        self._show("steps", f"epoch {epoch}/{self._epochs}", (epoch - 1) * steps + step, self._epochs * steps, figures)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self._last_epoch = row
        if not self._console.is_terminal:
            figures = [f"loss {row['train_loss']:.3f}", *self._validation_figures(row), f"{row['seconds']:.0f} s"]
            self._print(f"epoch {row['epoch']}/{self._epochs}: {', '.join(figures)}")

    def on_teacher_logits(self, done: int, total: int) -> None:
        self._show("images", "teacher's logits", done, total)

    def stop_requested(self) -> bool:
        return self._interrupted

    def _show(self, unit: str, description: str, done: int, total: int, figures: Sequence[str] = ()) -> None:
        """Show the progress of the kind of work that ``unit`` identifies, in its own bar or in occasional lines."""
        if self._shown and self._console.is_terminal:
            if unit not in self._tasks:
                self._tasks[unit] = self._bars.add_task(description, figures="")
                self._bars.start()  # a bar that starts but never moves would leave an empty line
            shown = "  ".join(figures)
            self._bars.update(self._tasks[unit], description=description, completed=done, total=total, figures=shown)
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_INTERVAL
            self._print(f"{description}: {', '.join([f'{done:,} of {total:,} {unit}', *figures])}")

    def _print(self, line: str) -> None:
        if self._shown:
            self._console.print(line, highlight=False, soft_wrap=not self._console.is_terminal)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Request a stop after the first Ctrl-C, and raise KeyboardInterrupt after the second. The first Ctrl-C raises
        nothing, because C code that calls back into Python may discard an exception."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def _validation_figures(self, row: Mapping[str, float]) -> list[str]:
        return [f"{name.replace('_', ' ')} {row[name]:.2%}" for name in self._figures if name in row]
