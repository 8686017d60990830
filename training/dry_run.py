"""Measures what a run will take without leaving one: ``hangtag train --dry-run``.

A few steps of the training loop run in a temporary folder, on all of the data, followed by everything that an epoch and
a run end with. So whatever a run needs memory for was there once, and only what repeats is multiplied.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
    """What a run will take, measured in a part of it."""

    samples: Mapping[str, int]  # by split, as the run will use them
    image_size: tuple[int, int]
    labels: int
    parameters: int
    epochs: int
    steps: int  # of an epoch
    measured_steps: int
    step_seconds: float
    epoch_seconds: float  # of what follows an epoch's steps: validation, and saving
    teacher_seconds: float  # before the first step
    final_seconds: float  # after the last epoch: the test split
    memory: int  # bytes: the peak, of all processes together
    gpu_memory: int | None  # bytes: the peak of PyTorch's tensors on rank 0's GPU; None on a CPU
    slowdown: float  # how many times as long a step takes as it computes; above 1 by other programs

    @property
    def seconds(self) -> float:
        """The whole run, from the first step or the teacher's first logits to the end."""
        an_epoch = self.steps * self.step_seconds + self.epoch_seconds
        return self.teacher_seconds + self.epochs * an_epoch + self.final_seconds

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is expected, in words: pairs of a heading and a text."""
        height, width = self.image_size
        splits = ", ".join(f"{split} {count:,}" for split, count in self.samples.items())
        yield "images", f"{splits}, each of {height} by {width} pixels; {self.labels} labels"
        yield "network", f"{self.parameters:,} parameters, {self.parameters * 4 / 1e6:.1f} MB in FP32"
        yield "steps", f"{self.epochs:,} epochs of {self.steps:,}: {self.epochs * self.steps:,}"
        gpu = "" if self.gpu_memory is None else f", and {_megabytes(self.gpu_memory)} of the GPU's"
        yield "memory", f"about {_megabytes(self.memory)}{gpu}: the peak of this dry run"
        step = f"{_milliseconds(self.step_seconds)} a step, measured over {self.measured_steps}"
        rest = f"{self.epoch_seconds:.1f} s after each epoch, {self.final_seconds:.1f} s at the end"
        teacher = f", {self.teacher_seconds:.0f} s for the teacher's logits" if self.teacher_seconds else ""
        yield "time", f"about {_duration(self.seconds)} on this machine: {step}; {rest}{teacher}"
        if self.slowdown >= WARNED_FACTOR:
            contention = f"a step took {self.slowdown:.1f} times as long as it computes"
            yield "", f"Other programs use these CPUs: {contention}. The run will be faster without them."


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
    step_seconds, measured_steps, slowdown = stopwatch.step()
    views = config.recipe.distillation.views if config.recipe.distillation else 0
    mirrored = 2 if config.recipe.augmentation.flip else 1  # a teacher answers for the mirror images too
    images = mirrored * len(task) * max(views, 1) / group.world_size
    return Forecast(
        samples={
            "train": len(task),
            "validation": len(data.validation.first(config.limit)),
            "test": len(data.test),
        },
        image_size=(data.image.height, data.image.width),
        labels=len(data.labels),
        parameters=metrics["summary"]["parameters"],
        epochs=config.recipe.epochs,
        steps=-(-len(task) // config.recipe.batch_size),
        measured_steps=measured_steps,
        step_seconds=step_seconds,
        epoch_seconds=stopwatch.epoch_end - stopwatch.ends[-1][0],
        teacher_seconds=timed_teacher.seconds_per_image * images if timed_teacher else 0.0,
        final_seconds=ended - stopwatch.epoch_end,
        memory=sum(group.all_gather(peak_memory())),
        gpu_memory=torch.cuda.max_memory_allocated() if config.device == "cuda" else None,
        slowdown=slowdown,
    )


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

    def step(self) -> tuple[float, int, float]:
        """The seconds of a step, over how many steps, and how many times as long they took as the thread computed."""
        steps = len(self.ends) - 1
        first = min(WARM_UP, steps - 1)
        elapsed, computed = (self.ends[-1][clock] - self.ends[first][clock] for clock in (0, 1))
        return elapsed / (steps - first), steps - first, elapsed / computed if computed > 0 else 1.0


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
