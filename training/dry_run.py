"""Measures what a run will take without leaving one: ``hangtag train --dry-run``.

A few steps of the training loop run in a temporary folder, on all of the data, followed by everything that an epoch and
a run end with. So whatever a run needs memory for was there once, and only what repeats is multiplied.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hangtag.training.data.dataset import Dataset, Images
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop.train import fit
from hangtag.training.observer import Observer, StepProgress
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.progress import WARNED_FACTOR
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.task import build_task
from hangtag.training.tasks.teacher import Teacher

WARM_UP, MEASURED = 11, 30
"""Steps before those that are measured, and measured ones. After both the trainer waits for the GPU to finish."""
_TEACHER_BATCHES = 3
"""Batches for which the teacher really computes logits, the first of which warms up."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take, measured in a part of it.

    Attributes:
        seconds: The whole run, from the first step or the teacher's first logits to the end.
        teacher_seconds: Of these before the first step.
        lines: What is expected, in words: pairs of a heading and a text.
    """

    seconds: float
    teacher_seconds: float
    lines: Sequence[tuple[str, str]]


def measure(
    config: RunConfig,
    data: Dataset,
    teacher: Teacher | None = None,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008  (stateless)
    distances: LabelDistances | None = None,
) -> Forecast:
    """Measure what a run will take, on every rank; the times are rank 0's. Nothing is left on disk.

    Args and errors are those of ``loop.train.train``.

    Example:
        >>> measure(config, fashion_mnist.load()).seconds / 60
        2.3
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    timed_teacher = _TimedTeacher(teacher, len(data.labels)) if teacher else None
    once = replace(config, recipe=replace(config.recipe, epochs=1))
    stopwatch = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="hangtag-dry-run-") as folder:
        run = Run(Path(folder))
        task = build_task(config, data, run, stopwatch, group, timed_teacher, distances)
        samples = (WARM_UP + MEASURED) * config.recipe.batch_size
        metrics = fit(once, task, run, stopwatch, group, samples)
        ended = time.perf_counter()
    recipe, step = config.recipe, stopwatch.step()
    steps = -(-len(task) // recipe.batch_size)
    epoch_seconds = stopwatch.epoch_end - stopwatch.ends[-1][0]  # validation, and saving
    final_seconds = ended - stopwatch.epoch_end  # the test split
    views = recipe.distillation.views if recipe.distillation else 0
    mirrored = 2 if recipe.augmentation.flip else 1  # a teacher answers for the mirror images too
    answers = mirrored * len(task) * max(views, 1) / group.world_size
    teacher_seconds = timed_teacher.seconds_per_image * answers if timed_teacher else 0.0
    seconds = teacher_seconds + recipe.epochs * (steps * step.seconds + epoch_seconds) + final_seconds

    parameters, image = metrics["summary"]["parameters"], data.image
    splits = f"train {len(task):,}, validation {len(data.validation.first(config.limit)):,}, test {len(data.test):,}"
    gpu = f", and {_megabytes(torch.cuda.max_memory_allocated())} of the GPU's" if config.device == "cuda" else ""
    rest = f"{epoch_seconds:.1f} s after each epoch, {final_seconds:.1f} s at the end"
    teaching = f", {teacher_seconds:.0f} s for the teacher's logits" if teacher_seconds else ""
    lines = [
        ("images", f"{splits}, each of {image.height} by {image.width} pixels; {len(data.labels)} labels"),
        ("network", f"{parameters:,} parameters, {parameters * 4 / 1e6:.1f} MB in FP32"),
        ("steps", f"{recipe.epochs:,} epochs of {steps:,}: {recipe.epochs * steps:,}"),
        ("memory", f"about {_megabytes(sum(group.all_gather(peak_memory())))}{gpu}: the peak of this dry run"),
        (
            "time",
            f"about {_duration(seconds)} on this machine: {_milliseconds(step.seconds)} a step, measured over "
            f"{step.measured}; {rest}{teaching}",
        ),
    ]
    if step.slowdown >= WARNED_FACTOR:
        contention = f"a step took {step.slowdown:.1f} times as long as it computes"
        lines.append(("", f"Other programs use these CPUs: {contention}. The run will be faster without them."))
    return Forecast(seconds, teacher_seconds, lines)


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes.

    Not from getrusage on Linux: there a process begins with the peak of the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class _Stopwatch(Observer):
    """Records when each step ended, by the clock and by the time that the thread computed, and when the epoch did."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.epoch_end = 0.0

    def on_start(self, rows: Sequence[Mapping[str, float]], steps: int) -> None:
        self._record()

    def on_step(self, progress: StepProgress) -> None:
        self._record()

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.epoch_end = time.perf_counter()

    def _record(self) -> None:
        self.ends.append((time.perf_counter(), time.thread_time()))

    def step(self) -> "_Step":
        steps = len(self.ends) - 1
        first = min(WARM_UP, steps - 1)
        elapsed, computed = (self.ends[-1][clock] - self.ends[first][clock] for clock in (0, 1))
        return _Step(elapsed / (steps - first), steps - first, elapsed / computed if computed > 0 else 1.0)


class _Step(NamedTuple):
    """The seconds of a step, over how many steps, and how many times as long they took as the thread computed."""

    seconds: float
    measured: int
    slowdown: float


class _TimedTeacher:
    """A teacher that answers a few batches, and is timed; after them its logits are zeros, which cost nothing."""

    def __init__(self, teacher: Teacher, labels: int) -> None:
        self._teacher, self._labels, self._seconds = teacher, labels, list[float]()

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        if len(self._seconds) == _TEACHER_BATCHES:
            return np.zeros((len(images), self._labels), np.float32)
        started = time.perf_counter()
        logits = self._teacher(images)
        self._seconds.append((time.perf_counter() - started) / len(images))
        return logits

    @property
    def seconds_per_image(self) -> float:
        """The fastest of the batches; 0 if no image was asked for."""
        return min(self._seconds, default=0.0)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
