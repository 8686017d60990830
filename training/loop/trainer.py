"""The training loop: trains one task by one recipe, and saves a checkpoint after every epoch.

for each epoch:
    for each batch: augment, forward, loss, backward, optimizer step       in every rank, on its share of the batch
    validate; save best.pt if it is the best so far; save checkpoint.pt     on rank 0
measure the best epoch on the test split                                   on rank 0
"""

import contextlib
import math
import time
from functools import partial
from typing import Any

import torch

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.data.multi_label import MultiLabelData
from hangtag.training.errors import DivergedError, RunMismatchError
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop.checkpoint import UNFITTING, RandomState, TrainingState, random_state
from hangtag.training.loop.contention import WARNED_FACTOR, ContentionMeter
from hangtag.training.observer import Observer, StepFigures, StepProgress
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.files import RESTART_HINT
from hangtag.training.runs.run import Run
from hangtag.training.tasks.selection import build_task
from hangtag.training.tasks.task import Task, Teacher

_SYNC_INTERVAL = 10
"""Steps between two exchanges of the sums. Reading a loss makes the GPU finish its work, so not every step does."""
DIVERGENCE_HINT = (
    "The best weights of earlier epochs are kept; try --precision fp32, another --seed, or a lower learning_rate for "
    "this recipe in training/recipes.py."
)


def train(
    config: RunConfig,
    data: FashionMnist | MultiLabelData,
    run: Run,
    observer: Observer = Observer(),  # noqa: B008  (stateless)
    teacher: Teacher | None = None,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008  (stateless)
    distances: LabelDistances | None = None,
) -> dict[str, Any]:
    """Train a run to the end of its recipe and return its metrics, as metrics.json has them.

    A run whose folder has a checkpoint continues from there; on one machine the outcome is the same as without the
    break, bit for bit. A finished run is not trained again; where the config has more epochs and a constant
    learning rate, it goes on.

    Args:
        config: The run's settings.
        data: The data set that the config names.
        run: The folder; created if it is missing.
        observer: Receives progress, and may request a stop.
        teacher: The model to learn from, if the recipe has a distillation.
        group: This process's place among the ranks of the run.
        distances: The label distances that the config's loss names, if it names any.

    Raises:
        RunMismatchError: The folder holds another run, or files that cannot be used, or another process trains in it.
        DivergedError: The loss or the network's outputs are not finite.
        LabelDistanceError: ``distances`` are not those that the config's loss names.
        TeacherError: The teacher fails on the images.
        KeyboardInterrupt: The observer requested a stop.

    Every rank raises what one of them raises.

    Example:
        >>> metrics = train(config, fashion_mnist.load(), Run(Path("runs/lstm")))
        >>> metrics["summary"]["test"]["accuracy"]
    """
    with contextlib.ExitStack() as stack:

        def claim_folder() -> dict[str, Any]:
            stack.enter_context(run.lock())
            run.start(config)
            return run.read_metrics()

        metrics = group.on_rank_zero(claim_folder)
        if "summary" in metrics:
            return metrics
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        task = build_task(config, data, torch.device(config.device), teacher, distances, observer)
        task.precompute(group, run)
        return train_task(config, task, run, observer, group)


def train_task(config: RunConfig, task: Task, run: Run, observer: Observer, group: ProcessGroup) -> dict[str, Any]:
    """Train a task in a folder that exists and is claimed; args, result and errors are those of ``train``."""
    return _Trainer(config, task, run, observer, group).train()


class _Trainer:
    """Trains one run. Of several ranks each has one, with the same weights."""

    def __init__(self, config: RunConfig, task: Task, run: Run, observer: Observer, group: ProcessGroup) -> None:
        self.config, self.task, self.run, self.observer, self.group = config, task, run, observer, group
        self._steps_per_epoch = math.ceil(len(task) / config.recipe.batch_size)
        self._contention = ContentionMeter()
        self.state = TrainingState(task.network(), config.recipe, self._steps_per_epoch)
        if not group.is_rank_zero:
            torch.manual_seed(config.seed + group.rank)  # dropout and augmentation differ between the ranks

    def train(self) -> dict[str, Any]:
        self._resume()
        self.group.on_rank_zero(partial(self.observer.on_start, self.state.rows, self._steps_per_epoch))
        network = self.group.wrap(self.state.network)
        for epoch in range(len(self.state.rows) + 1, self.config.recipe.epochs + 1):
            row = self._train_epoch(epoch, network)
            self.state.rows.append(self.group.on_rank_zero(partial(self._validate, row)))
            random_states = self.group.all_gather(random_state(self.config.device))
            self.group.on_rank_zero(partial(self._save, random_states))
        return self.group.on_rank_zero(self._finish)

    def _train_epoch(self, epoch: int, network: torch.nn.Module) -> dict[str, float]:
        """One pass over the training samples; returns the figures of the epoch."""
        network.train()
        started = time.perf_counter()
        last_epoch = self.state.rows[-1] if self.state.rows else None
        batches = self._batches()
        # The sums [2] of loss and correct samples stay on the device.
        sums, loss = torch.zeros(2, dtype=torch.float64, device=self.config.device), math.nan
        total, correct, seen, summed = 0.0, 0.0, 0, 0
        for step, batch in enumerate(batches, 1):
            learning_rate, figures = self.state.learning_rate, None
            sums += self._train_step(network, batch)
            seen += len(batch)
            if step % _SYNC_INTERVAL == 1 or step == len(batches):
                before = total, correct
                total, correct = self._sum_over_ranks(sums)
                recent, summed = seen - summed, seen
                figures = StepFigures((total - before[0]) / recent, (correct - before[1]) / recent, learning_rate)
                loss = total / seen
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss became {loss} in epoch {epoch}, by step {step} of {len(batches)}. {DIVERGENCE_HINT}"
                    )
            self.observer.on_step(StepProgress(epoch, step, len(batches), loss, last_epoch, figures))
            if self.config.device == "cpu" and (slowdown := self._contention.after_step()) >= WARNED_FACTOR:
                self.observer.on_contention(slowdown)
            if not self.group.in_lockstep:
                self.observer.raise_if_stopped()
        seconds = time.perf_counter() - started
        return {
            "epoch": epoch,
            "train_loss": total / len(self.task),
            "train_accuracy": correct / len(self.task),
            "learning_rate": learning_rate,
            "seconds": round(seconds, 3),
            "step_ms": round(seconds / len(batches) * 1000, 4),
        }

    def _train_step(self, network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Change the weights by a batch of indices; the sums [2] of loss and correct samples of this rank's share."""
        indices, weight = self.group.share_of(batch)
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outcome = self.task.training_step(network, indices)
        self.state.step(outcome.loss * weight if weight != 1.0 else outcome.loss)
        sums = torch.stack([outcome.loss.detach().double() * len(indices), outcome.correct.double()])
        return sums if weight else torch.zeros_like(sums)  # at weight 0 the sample is another rank's

    def _sum_over_ranks(self, sums: torch.Tensor) -> tuple[float, float]:
        """Raises KeyboardInterrupt in all ranks if the observer of one requests a stop."""
        parts = self.group.all_gather((sums.tolist(), self.observer.stop_requested()))
        if any(stop for _, stop in parts):
            raise KeyboardInterrupt
        return sum(part[0] for part, _ in parts), sum(part[1] for part, _ in parts)

    def _batches(self) -> list[torch.Tensor]:
        """The epoch's sample indices in random order, split into batches; the same in every rank."""
        order = self.group.broadcast(torch.randperm(len(self.task)))
        batches = list(torch.split(order, self.config.recipe.batch_size))
        # Batch norm needs two samples in every rank, so a smaller last batch joins the one before it.
        if self.config.recipe.batch_norm and len(batches) > 1 and len(batches[-1]) < 2 * self.group.world_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _validate(self, row: dict[str, float]) -> dict[str, float]:
        """Add the validation split's figures to the epoch's, and save the weights if they are the best so far."""
        deployable = self.task.deployable(self.state.evaluated)
        row |= self.task.validate(deployable)
        metric = self.task.selection_metric
        if not math.isfinite(row[metric]):  # only the last step went wrong, and no later loss would show it
            raise DivergedError(f"the network's outputs are not finite after epoch {row['epoch']}. {DIVERGENCE_HINT}")
        if row[metric] > max((past[metric] for past in self.state.rows), default=-1.0):
            self.run.save("best.pt", {"model": deployable.state_dict(), "epoch": row["epoch"]})
        return row

    def _finish(self) -> dict[str, Any]:
        """Measure the best epoch's network, on the test split too, now that it is selected; write the summary."""
        epoch, deployable = self._load_best()
        metric = self.task.selection_metric
        figures = [row[metric] for row in self.state.rows]
        summary = {"best_epoch": epoch, f"peak_{metric}": max(figures), f"final_{metric}": figures[-1]}
        metrics = {"epochs": self.state.rows, "summary": summary | self.task.summarise(deployable)}
        self.run.write_metrics(metrics)
        if self.config.recipe.schedule != "constant":  # with a constant rate the run may go on to more epochs
            self.run.drop_checkpoint()
        return metrics

    def _save(self, random_states: list[RandomState]) -> None:
        self.run.save("checkpoint.pt", self.state.checkpoint(random_states))
        self.run.write_metrics({"epochs": self.state.rows})
        self.observer.on_epoch(self.state.rows[-1])

    def _resume(self) -> None:
        """Restore the last checkpoint, if there is one."""
        checkpoint = self.group.on_rank_zero(self._load_checkpoint)
        if checkpoint is None:
            return
        try:
            self.state.restore(checkpoint, self.group.rank)
        except UNFITTING as error:
            raise RunMismatchError(
                f"{self.run.folder / 'checkpoint.pt'} is not a checkpoint of this run. {RESTART_HINT}"
            ) from error

    def _load_checkpoint(self) -> dict[str, Any] | None:
        if not self.run.has("checkpoint.pt"):
            return None
        self._load_best()  # needed at the end: report a broken file now and not hours later
        return self.run.load("checkpoint.pt")

    def _load_best(self) -> tuple[int, torch.nn.Module]:
        """The best epoch's number and network. Raises RunMismatchError for a file of another run."""
        best, deployable = self.run.load("best.pt"), self.task.deployable(self.state.network)
        try:
            deployable.load_state_dict(best["model"])
            return int(best["epoch"]), deployable
        except UNFITTING as error:
            raise RunMismatchError(
                f"{self.run.folder / 'best.pt'} does not hold weights of this run's network. {RESTART_HINT}"
            ) from error
