"""Trains a network, from images to weights. Read this file first: :func:`fit` shows the path of a batch:

    images -> augment -> normalise -> forward pass and loss -> backward pass -> optimizer step -> moving average

The parts are in other modules. data/ has the images, networks/ the layers, losses.py the losses, tasks/ the
augmentation and the tasks for each kind of labels, and recipes.py the hyperparameters. checkpoint.py saves a run,
selects the best epoch, and resumes a killed run. The first axis of all tensors is the samples.
"""

import contextlib
import math
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hangtag.training import catalog
from hangtag.training.data.dataset import Dataset
from hangtag.training.loop import checkpoint
from hangtag.training.loop.checkpoint import TrainingState
from hangtag.training.networks import own
from hangtag.training.networks.normalisation import normalise
from hangtag.training.processes import ProcessGroup
from hangtag.training.progress import Observer
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.augmentation import augment
from hangtag.training.tasks.task import MultiLabelTask, SingleLabelTask, Task
from hangtag.training.tasks.teacher import Teacher

SYNC_INTERVAL = 10
"""The number of steps after which the sums of the losses are read. To read a sum, the CPU waits for the GPU to
finish its work, so the sums are not read after every step."""


def train(
    config: RunConfig,
    data: Dataset,
    run: Run,
    observer: Observer = Observer(),  # noqa: B008  (stateless)
    teacher: Teacher | None = None,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008  (stateless)
) -> dict[str, Any]:
    """Train a run to the end of its recipe, and return the content of metrics.json.

    A finished run is not trained again. If the run's folder has a checkpoint, the run continues from it. On one
    machine the result is then the same, bit for bit, as without an interruption. ``teacher`` is the model to learn
    from, if the recipe has a distillation. If one rank raises an error, every rank raises it.

    Raises:
        RunMismatchError: The folder holds another run or unusable files, or another process trains in it.
        DivergedError: The loss or the network's outputs are not finite.
        SettingsError: The network cannot be built for these images, or the teacher fails on them.
        KeyboardInterrupt: The observer requested a stop.

    Example:
        >>> metrics = train(config, fashion_mnist.load(), Run(Path("runs/lstm")))
        >>> metrics["summary"]["test"]["accuracy"]
    """
    with contextlib.ExitStack() as stack:

        def claim_folder() -> dict[str, Any]:
            stack.enter_context(run.lock())
            run.start(config, data.members)
            return run.metrics

        metrics = group.on_rank_zero(claim_folder)
        if "summary" in metrics:
            return metrics
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        task: Task = (
            MultiLabelTask(config, data, observer)
            if data.has_label_sets
            else SingleLabelTask(config, data, run, observer, group, teacher)
        )
        return fit(config, task, run, observer, group)


def fit(config: RunConfig, task: Task, run: Run, observer: Observer, group: ProcessGroup) -> dict[str, Any]:
    """Train the run's network on a task, in a locked folder. For arguments, result and errors, see ``train``."""
    recipe, device = config.recipe, torch.device(config.device)
    steps = math.ceil(len(task) / recipe.batch_size)
    state = TrainingState(catalog.prepared(config, len(task.labels), task.image, steps), recipe, steps)
    if not group.is_rank_zero:
        # each rank gets random numbers of its own for dropout and augmentation
        torch.manual_seed(config.seed + group.rank)
    checkpoint.resume(state, run, group)
    network = group.wrap(state.network)  # averages the gradients over the ranks
    for epoch in range(len(state.rows) + 1, recipe.epochs + 1):
        network.train()
        batches = _batches(len(task), config, group)
        sums = _Sums(epoch, len(batches), config, observer, group)
        for step, batch in enumerate(batches, 1):
            learning_rate = float(state.optimizer.param_groups[0]["lr"])  # with muon, the learning rate of the matrices
            share, weight = group.share_of(batch)  # the part of the batch that this rank computes
            share = share.to(device)  # [share]: the indices of the samples
            views = task.choose_views(share)  # [share]: the indices in task.images
            images = augment(task.images[views], task.augmentation)  # [share, height, width] or [..., 3], uint8
            with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16"):
                pixels = normalise(images, task.image)  # [share, channels, height, width], FP32
                loss, correct = task.loss(network, pixels, views)  # a scalar, and the number of correct predictions
            state.optimizer.zero_grad(set_to_none=True)
            (loss * weight if weight != 1.0 else loss).backward()
            state.optimizer.step()
            if state.scheduler is not None:
                state.scheduler.step()
            if state.average is not None:
                state.average.update_parameters(state.network)
            if weight:  # a sample with weight 0 belongs to another rank
                sums.add(loss.detach(), correct, len(share))
            sums.after_step(step, len(batch))
            if group.world_size == 1:  # several ranks must all stop at the same step, so after_step stops them
                observer.raise_if_stopped()
        row = sums.row(len(task), learning_rate)
        state.rows.append(group.on_rank_zero(partial(checkpoint.validate, row, config, task, state, run)))
        random_states = group.all_gather(checkpoint.random_state(config.device))
        group.on_rank_zero(partial(checkpoint.save, state, random_states, run))
        group.on_rank_zero(partial(observer.on_epoch, state.rows[-1]))
    return group.on_rank_zero(partial(checkpoint.finish, task, state, run))


def _batches(samples: int, config: RunConfig, group: ProcessGroup) -> list[Tensor]:
    """Return the epoch's sample indices in random order, split into batches, which are the same in every rank."""
    order = torch.randperm(samples)
    batches = list(torch.split(group.on_rank_zero(lambda: order), config.recipe.batch_size))
    # Batch normalisation needs two samples in every rank, so a smaller last batch joins the batch before it. The user's
    # own network may have batch normalisation too.
    normalises = config.recipe.batch_norm or own.is_own(config.model)
    if normalises and len(batches) > 1 and len(batches[-1]) < 2 * group.world_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


class _Sums:
    """Sums an epoch's losses and correct samples on the device, and reads the sums every SYNC_INTERVAL steps."""

    def __init__(self, epoch: int, steps: int, config: RunConfig, observer: Observer, group: ProcessGroup) -> None:
        self._epoch, self._steps, self._config, self._observer, self._group = epoch, steps, config, observer, group
        self._started, self._seen = time.perf_counter(), 0
        self._sums = torch.zeros(2, dtype=torch.float64, device=config.device)  # losses, and correct samples
        self._loss, self._correct = math.nan, math.nan  # the sums over all ranks when they were last read

    def add(self, loss: Tensor, correct: Tensor, count: int) -> None:
        """Add a batch's mean loss and its number of correct samples."""
        self._sums += torch.stack([loss.double() * count, correct.double()])

    def after_step(self, step: int, count: int) -> None:
        """Report a finished step, in which the ranks computed ``count`` samples together. Raises DivergedError if the
        loss is no longer finite, and KeyboardInterrupt if a rank's observer requests a stop."""
        self._seen += count
        if step % SYNC_INTERVAL == 1 or step == self._steps:
            parts = self._group.all_gather((self._sums.tolist(), self._observer.stop_requested()))
            if any(stop for _, stop in parts):
                raise KeyboardInterrupt
            self._loss, self._correct = (sum(sums) for sums in zip(*(part for part, _ in parts), strict=True))
            self._mean = self._loss / self._seen
            if not math.isfinite(self._mean):
                what = f"the loss became {self._mean} in epoch {self._epoch}, by step {step} of {self._steps}"
                raise checkpoint.diverged(what, self._epoch, self._config)
        self._observer.on_step(self._epoch, step, self._steps, self._mean)

    def row(self, samples: int, learning_rate: float) -> dict[str, float]:
        """Return the epoch's metrics."""
        seconds = time.perf_counter() - self._started
        return {
            "epoch": self._epoch,
            "train_loss": self._loss / samples,
            "train_accuracy": self._correct / samples,
            "learning_rate": learning_rate,
            "seconds": round(seconds, 3),
            "step_ms": round(seconds / self._steps * 1000, 4),
        }
