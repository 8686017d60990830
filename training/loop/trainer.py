"""The training loop: one recipe, one task, and checkpoints from which a killed run goes on unharmed."""

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
from hangtag.training.loop import optimisation
from hangtag.training.observer import Progress, Watch
from hangtag.training.processes.process_group import Group
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import TRAIN_ANEW, Run
from hangtag.training.tasks.selection import build_task
from hangtag.training.tasks.task import Task, Teacher

_LOOK = 10
"""Steps from one look at the sums to the next."""
# What PyTorch raises for a state that is another's, or none.
_UNFITTING = (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError)
AFTER_DIVERGENCE = (
    "What earlier epochs reached is kept; try --precision fp32, another --seed, or a lower learning_rate for this "
    "recipe in training/recipes.py."
)


def train(
    config: RunConfig,
    data: FashionMnist | MultiLabelData,
    run: Run,
    watch: Watch = Watch(),  # noqa: B008  (without state)
    teacher: Teacher | None = None,
    group: Group = Group(),  # noqa: B008  (frozen)
    distances: LabelDistances | None = None,
) -> dict[str, Any]:
    """Train to the end of the recipe and return the metrics, which also lie in the run's folder.

    A folder that holds this run's checkpoint is continued from there; the outcome is the same as without the break,
    bit for bit on one machine. Raises RunMismatchError for a folder of another run, or one that another process trains
    in, DivergedError for a loss that is not finite, and KeyboardInterrupt where the watch wants to stop. Of several
    processes all raise what one does.
    """
    with contextlib.ExitStack() as stack:

        def begin() -> dict[str, Any]:
            stack.enter_context(run.lock())
            run.start(config)
            return run.read_metrics()

        metrics = group.by_first(begin)
        if "summary" in metrics:
            return metrics
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        task = build_task(config, data, torch.device(config.device), teacher, distances, group, watch)
        return _Training(config, task, run, watch, group).to_the_end()


class _Training:
    """A run under way: the network, what changes it, and the rows of the epochs so far."""

    def __init__(self, config: RunConfig, task: Task, run: Run, watch: Watch, group: Group) -> None:
        self.config, self.task, self.run, self.watch, self.group = config, task, run, watch, group
        recipe = config.recipe
        self.network = task.network()
        self.steps = math.ceil(len(task) / recipe.batch_size)
        self.optimizer = optimisation.optimizer(self.network, recipe)
        self.scheduler = optimisation.scheduler(self.optimizer, recipe, self.steps)
        self.average = optimisation.average(self.network, recipe)
        self.rows: list[dict[str, float]] = []
        if not group.is_first:
            torch.manual_seed(config.seed + group.rank)  # other dropout and augmentation than the first process's

    def to_the_end(self) -> dict[str, Any]:
        self._resume()
        wrapped = self.group.wrap(self.network)
        for epoch in range(len(self.rows), self.config.recipe.epochs):
            row = self._epoch(epoch, wrapped)
            self.rows.append(self.group.by_first(partial(self._validated, row)))
            randomness = self.group.gather(_random_state(self.config.device))
            self.group.by_first(partial(self._keep, randomness))
        return self.group.by_first(self._finished)

    def _epoch(self, epoch: int, network: torch.nn.Module) -> dict[str, float]:
        network.train()
        started = time.perf_counter()
        last_epoch = self.rows[-1] if self.rows else None
        order = self._batches()
        # Summed where the steps are computed: a GPU that had to tell every loss would wait for every step.
        sums, loss, seen = torch.zeros(2, dtype=torch.float64, device=self.config.device), math.nan, 0
        for step, batch in enumerate(order, 1):
            sums += self._step(network, batch)
            seen += len(batch)
            if step % _LOOK == 1 or step == len(order):
                total, right = self._look(sums)
                loss = total / seen
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss became {loss} in epoch {epoch + 1}, by step {step} of {len(order)}. "
                        f"{AFTER_DIVERGENCE}"
                    )
            self.watch.step(Progress(epoch + 1, step, len(order), loss, last_epoch))
            if self.group.size == 1:  # several stop together, where they look
                self.watch.check()
        seconds = time.perf_counter() - started
        return {
            "epoch": epoch + 1,
            "train_loss": total / len(self.task),
            "train_accuracy": right / len(self.task),
            "seconds": round(seconds, 3),
            "step_ms": round(seconds / len(order) * 1000, 4),
        }

    def _step(self, network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Change the weights by a batch; the sums [2] of the loss and of the right answers over this process's part."""
        indices, weight = self.group.part(batch)
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outcome = self.task.step(network, indices)
        self.optimizer.zero_grad(set_to_none=True)
        (outcome.loss * weight if weight != 1.0 else outcome.loss).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        sums = torch.stack([outcome.loss.detach().double() * len(indices), outcome.right.double()])
        return sums if weight else torch.zeros_like(sums)  # it had none of its own, and answered another's

    def _look(self, sums: torch.Tensor) -> tuple[float, float]:
        """The sums over all processes. Raises KeyboardInterrupt in all of them where one wants to stop."""
        parts = self.group.gather((sums.tolist(), self.watch.wants_stop()))
        if any(stop for _, stop in parts):
            raise KeyboardInterrupt
        return sum(part[0] for part, _ in parts), sum(part[1] for part, _ in parts)

    def _batches(self) -> list[torch.Tensor]:
        """The epoch's samples in random order, a batch's indices at a time; the same in every process."""
        batches = list(torch.split(self.group.share(torch.randperm(len(self.task))), self.config.recipe.batch_size))
        # Batch norm needs two samples in every process, so a last batch of fewer joins the one before it.
        if self.config.recipe.batch_norm and len(batches) > 1 and len(batches[-1]) < 2 * self.group.size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _validated(self, row: dict[str, float]) -> dict[str, float]:
        """The row with the validation split's figures. The best epoch's weights are kept."""
        deployable = self.task.deployable(self.network if self.average is None else self.average.module)
        row |= self.task.validate(deployable)
        figure = row[self.task.selects_by]
        if not math.isfinite(figure):  # the epoch's last step went wrong: no later loss would show it
            raise DivergedError(f"the network's outputs are not finite after epoch {row['epoch']}. {AFTER_DIVERGENCE}")
        if figure > max((past[self.task.selects_by] for past in self.rows), default=-1.0):
            self.run.save("best.pt", {"model": deployable.state_dict(), "epoch": row["epoch"]})
        return row

    def _finished(self) -> dict[str, Any]:
        """The metrics with the summary of the best epoch. The test set is looked at here, after all was chosen."""
        epoch, deployable = self._best()
        figures = [row[self.task.selects_by] for row in self.rows]
        summary = {
            "best_epoch": epoch,
            f"peak_{self.task.selects_by}": max(figures),
            f"final_{self.task.selects_by}": figures[-1],
        }
        metrics = {"epochs": self.rows, "summary": summary | self.task.summary(deployable)}
        self.run.write_metrics(metrics)
        self.run.drop_checkpoint()
        return metrics

    def _keep(self, randomness: list[dict[str, torch.Tensor]]) -> None:
        self.run.save("checkpoint.pt", self._state() | {"rng": randomness})
        self.run.write_metrics({"epochs": self.rows})

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
        }
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def _resume(self) -> None:
        """Put everything back to where the last checkpoint left it, if there is one."""
        state = self.group.by_first(self._checkpoint)
        if state is None:
            return
        try:
            self.network.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            for kind, value in state["rng"][self.group.rank].items():
                (torch.cuda.set_rng_state if kind == "cuda" else torch.set_rng_state)(value)
            self.rows = state["rows"]
        except _UNFITTING as error:
            raise RunMismatchError(
                f"{self.run.folder / 'checkpoint.pt'} is not a checkpoint of this run. {TRAIN_ANEW}"
            ) from error

    def _checkpoint(self) -> dict[str, Any] | None:
        if not self.run.has("checkpoint.pt"):
            return None
        self._best()  # needed at the end: one that cannot be used is reported now, not hours later
        return self.run.load("checkpoint.pt")

    def _best(self) -> tuple[int, torch.nn.Module]:
        """The best epoch's number and network. Raises RunMismatchError for a file that is not this run's."""
        best, deployable = self.run.load("best.pt"), self.task.deployable(self.network)
        try:
            deployable.load_state_dict(best["model"])
            return int(best["epoch"]), deployable
        except _UNFITTING as error:
            raise RunMismatchError(
                f"{self.run.folder / 'best.pt'} does not hold weights of this run's network. {TRAIN_ANEW}"
            ) from error


def _random_state(device: str) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if device == "cuda" else state
