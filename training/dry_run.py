"""``hangtag train --dry-run``: what a run would take, measured by a short one in a temporary folder."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hangtag.output import require_writable
from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop.train import train
from hangtag.training.processes import ProcessGroup
from hangtag.training.progress import Observer, StepProgress
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.teacher import Teacher

WARM_UP, MEASURED = 11, 30
"""Steps before those that are measured, and measured ones. After both the trainer waits for the GPU to finish."""


def forecast(
    config: RunConfig,
    data: Dataset,
    teacher: Teacher | None,
    group: ProcessGroup,
    distances: LabelDistances | None,
) -> Mapping[str, str]:
    """What a run would take, in words; the times are rank 0's. Nothing is left on disk.

    Args and errors are those of ``loop.train.train``. The teacher is not asked: its logits are zeros here.
    """
    recipe, clock, images = config.recipe, _Clock(), len(data.train.first(config.limit))
    few = min(images, (WARM_UP + MEASURED) * recipe.batch_size)
    short = replace(config, limit=few, recipe=replace(recipe, epochs=1))
    silent = (lambda images: np.zeros((len(images), len(data.labels)), np.float32)) if teacher else None
    with tempfile.TemporaryDirectory(prefix="hangtag-dry-run-") as folder:
        summary = train(short, data, Run(Path(folder)), clock, silent, group, distances)["summary"]
    first = min(WARM_UP, len(clock.step_ends) - 2)
    measured = clock.step_ends[first:]
    step = (measured[-1] - measured[0]) / (len(measured) - 1)
    steps = math.ceil(images / recipe.batch_size)
    seconds = recipe.epochs * steps * step
    duration = f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
    validation, test = len(data.validation.first(config.limit)), len(data.test)
    size = f"each of {data.image.height} by {data.image.width} pixels; {len(data.labels)} labels"
    return {
        "images": f"train {images:,}, validation {validation:,}, test {test:,}, {size}",
        "network": f"{summary['parameters']:,} parameters, {summary['parameters'] * 4 / 1e6:.1f} MB in FP32",
        "steps": f"{recipe.epochs:,} epochs of {steps:,}: {recipe.epochs * steps:,}",
        "time": f"about {duration} on this machine, at {step * 1000:.2f} ms a step; validation is not included"
        + (", nor are the teacher's logits" if teacher else ""),
    }


def state(run: Run, config: RunConfig, *, restart: bool) -> str:
    """What the run would do with its folder. Raises RunMismatchError or OutputError where it could not begin."""
    require_writable(run.folder / "config.json")
    if restart and run.has("config.json"):
        return "the run there would be replaced"
    run.require_fitting(config)
    done, epochs = len(run.metrics["epochs"]), config.recipe.epochs
    if done == epochs and "summary" in run.metrics:
        return "it holds this run, finished; nothing would be trained"
    return f"it holds this run, {done} of {epochs} epochs; it would go on" if done else "a new run"


class _Clock(Observer):
    """Records when the first step began, and when each ended."""

    def __init__(self) -> None:
        self.step_ends = [time.perf_counter()]

    def on_step(self, progress: StepProgress) -> None:
        self.step_ends.append(time.perf_counter())
