"""A training run seen from the terminal: the progress bar, and what Ctrl-C does."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training import trainer

_FIGURES = ("validation_accuracy", "validation_o_f1", "validation_exact_match")


@contextmanager
def watched(epochs: int, *, shown: bool) -> Iterator[Callable[[trainer.Progress], None]]:
    """Yields what the training loop reports to: it moves the bar, and raises KeyboardInterrupt after Ctrl-C."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
        disable=not shown,
    )
    with bars, _interrupted_between_steps() as check:
        move = _bar(bars, epochs)

        def report(at: trainer.Progress) -> None:
            move(at)
            check()

        yield report


def _bar(bars: Progress, epochs: int) -> Callable[[trainer.Progress], None]:
    task = bars.add_task("starting", total=None, figures="", visible=False)

    def move(at: trainer.Progress) -> None:
        if at.step % 10 and at.step not in (1, at.steps):
            return
        figures = f"loss {at.loss:.3f}"
        for name in _FIGURES:
            if at.last_epoch and name in at.last_epoch:
                figures += f"  {name.replace('_', ' ')} {at.last_epoch[name]:.2%}"
        bars.update(
            task,
            description=f"epoch {at.epoch}/{epochs}",
            completed=(at.epoch - 1) * at.steps + at.step,
            total=epochs * at.steps,
            figures=figures,
            visible=True,
        )

    return move


@contextmanager
def _interrupted_between_steps() -> Iterator[Callable[[], None]]:
    """Yields a check that raises KeyboardInterrupt once Ctrl-C was pressed; a second Ctrl-C raises wherever it comes.

    Raised anywhere, it could get lost: C code that calls back into Python may clear what was raised there.
    """
    asked = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
