"""Measures what a run will take without leaving one: ``hangtag train --dry-run``.

A few steps of the training loop run in a temporary folder, on all of the data, followed by everything that an epoch and
a run end with. So whatever a run needs memory for was there once, and only what repeats is multiplied.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop.train import fit
from hangtag.training.observer import Observer, StepProgress
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.task import build_task
from hangtag.training.tasks.teacher import Teacher

WARM_UP, MEASURED = 11, 30
"""Steps before those that are measured, and measured ones. After both the trainer waits for the GPU to finish."""


def measure(
    config: RunConfig,
    data: Dataset,
    teacher: Teacher | None,
    group: ProcessGroup,
    distances: LabelDistances | None,
) -> list[tuple[str, str]]:
    """Measure what a run will take, on every rank; the times are rank 0's. Nothing is left on disk.

    Args and errors are those of ``loop.train.train``. The teacher is not asked: its logits are zeros here.

    Returns:
        What is expected, in words: pairs of a heading and a text.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    recipe, image, clock = config.recipe, data.image, _Clock()
    with tempfile.TemporaryDirectory(prefix="hangtag-dry-run-") as folder:
        run = Run(Path(folder))
        silent = (lambda images: np.zeros((len(images), len(data.labels)), np.float32)) if teacher else None
        task = build_task(config, data, run, clock, group, silent, distances)
        once = replace(config, recipe=replace(recipe, epochs=1))
        metrics = fit(once, task, run, clock, group, (WARM_UP + MEASURED) * recipe.batch_size)
        final_seconds = time.perf_counter() - clock.epoch_end  # the test split
    measured, step_seconds = clock.step()
    steps = -(-len(task) // recipe.batch_size)
    epoch_seconds = clock.epoch_end - clock.step_ends[-1]  # validation, and saving
    seconds = recipe.epochs * (steps * step_seconds + epoch_seconds) + final_seconds
    parameters = metrics["summary"]["parameters"]
    splits = f"train {len(task):,}, validation {len(data.validation.first(config.limit)):,}, test {len(data.test):,}"
    memory = f"about {sum(group.all_gather(peak_memory())) / 1e6:,.0f} MB"
    if config.device == "cuda":
        memory += f", and {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB of the GPU's"
    return [
        ("images", f"{splits}, each of {image.height} by {image.width} pixels; {len(data.labels)} labels"),
        ("network", f"{parameters:,} parameters, {parameters * 4 / 1e6:.1f} MB in FP32"),
        ("steps", f"{recipe.epochs:,} epochs of {steps:,}: {recipe.epochs * steps:,}"),
        ("memory", f"{memory}: the peak of this dry run"),
        (
            "time",
            f"about {_duration(seconds)} on this machine: {step_seconds * 1000:.2f} ms a step, measured over "
            f"{measured}; {epoch_seconds:.1f} s after each epoch, {final_seconds:.1f} s at the end"
            + ("; and the teacher's logits, which are not included" if teacher else ""),
        ),
    ]


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes.

    Not from getrusage: there a process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class _Clock(Observer):
    """Records when each step ended, and when the epoch did."""

    def __init__(self) -> None:
        self.step_ends: list[float] = []
        self.epoch_end = self._mean = 0.0

    def on_step(self, progress: StepProgress) -> None:
        self.step_ends.append(time.perf_counter())

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.epoch_end, self._mean = time.perf_counter(), row["step_ms"] / 1000

    def step(self) -> tuple[int, float]:
        """How many steps were measured, and the seconds of one of them."""
        measured = len(self.step_ends) - WARM_UP
        if measured < 1:  # a small data set: the mean of all
            return len(self.step_ends), self._mean
        return measured, (self.step_ends[-1] - self.step_ends[WARM_UP - 1]) / measured


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
