"""``hangtag train``: parse, train with a progress bar, say where the run lies."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training import data as fashion_mnist
from training import trainer
from training.models import MODELS
from training.recipes import RECIPES
from training.run import Run, RunConfig


@click.command()
@click.argument("model", type=click.Choice(list(MODELS)))
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="study", show_default=True, help="How to train.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Decides initial weights, order and dropout.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder with Fashion-MNIST's IDX files.  [default: Debian's package, else a download by torchvision]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/MODEL-RECIPE-seedSEED]")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's number of epochs.")
@click.option("--limit", type=click.IntRange(min=1), help="Train on the first N images only: for quick trials.")
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads.  [default: the CPUs this process may use]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the training steps. bf16 is faster where the CPU or GPU has it; weights are FP32 either way.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train. auto takes the GPU if PyTorch sees one.",
)
@click.option("--restart", is_flag=True, help="Discard what the run's folder holds and begin anew.")
def train(
    model: str,
    recipe: str,
    seed: int,
    data_dir: Path | None,
    out: Path | None,
    epochs: int | None,
    limit: int | None,
    threads: int | None,
    precision: str,
    device: str,
    restart: bool,
) -> None:
    """Train MODEL on Fashion-MNIST.

    The run's folder gets config.json, metrics.json and best.pt, the weights of the epoch with the best validation
    accuracy. A run that was killed, or stopped with Ctrl-C, goes on from its last finished epoch when the same command
    is given again.

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes on two cores
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
    """
    device = _pick_device(device)
    dataset = fashion_mnist.load(data_dir)
    chosen = RECIPES[recipe]
    config = RunConfig(
        model=model,
        recipe=replace(chosen, epochs=epochs) if epochs else chosen,
        seed=seed,
        data_digest=dataset.digest,
        limit=limit,
        precision=precision,
        threads=threads or len(os.sched_getaffinity(0)),
        device=device,
    )
    run = Run(out or Path("runs") / config.run_name)
    if restart:
        run.erase()
    _say(f"{config.run_name}: data from {dataset.source}, {config.device}, {config.threads} threads")
    finished = run.is_finished()
    try:
        with _bars() as bars, _interrupted_between_steps() as check:
            show = _progress_bar(bars, config.recipe.epochs)

            def report(at: trainer.Progress) -> None:
                show(at)
                check()

            metrics = trainer.train(config, dataset, run, report)
    except KeyboardInterrupt:
        _say(
            "stopped. Give the same command again to go on from the last finished epoch"
            f"{' (without --restart, which begins anew)' if restart else ''}."
        )
        raise SystemExit(130) from None  # as a shell reports a process that SIGINT ended
    if finished:
        _say("this run had finished already: nothing was trained. --restart trains it anew.")
    summary = metrics["summary"]
    _say(
        f"best epoch {summary['best_epoch']}: validation accuracy {summary['validation']['accuracy']:.2%}, "
        f"test accuracy {summary['test']['accuracy']:.2%}, {summary['parameters']:,} parameters"
    )
    _say(f"run: {run.folder}   next: hangtag export {run.folder}")


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


def _say(line: str) -> None:
    click.echo(line, err=True)  # not rich: it would wrap lines, and take brackets in a path for markup


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
    )


def _pick_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
    return device


def _progress_bar(bars: Progress, epochs: int) -> Callable[[trainer.Progress], None]:
    task = bars.add_task("starting", total=None, figures="", visible=False)

    def report(at: trainer.Progress) -> None:
        if at.step % 10 and at.step not in (1, at.steps):
            return
        figures = f"loss {at.loss:.3f}"
        if at.last_epoch:
            figures += f"  validation {at.last_epoch['validation_accuracy']:.2%}"
        bars.update(
            task,
            description=f"epoch {at.epoch}/{epochs}",
            completed=(at.epoch - 1) * at.steps + at.step,
            total=epochs * at.steps,
            figures=figures,
            visible=True,
        )

    return report
