"""What ``hangtag train`` does once it knows what was asked: read, train, and say what came of it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hangtag.training.data import datasets
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.loop import trainer
from hangtag.training.losses.single_label import DistanceLoss
from hangtag.training.processes.distributed import process_group
from hangtag.training.progress import terminal_observer
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.teacher import TeacherEnsemble, published_teachers


@dataclass(frozen=True)
class Asked:
    """The options, as far as they can be understood before anything is read."""

    model: str
    recipe: Recipe
    dataset: str
    data_dir: Path | None
    out: Path | None
    seed: int
    limit: int | None
    threads: int | None
    precision: str
    device: str
    teachers: tuple[Path, ...]
    distances: LabelDistances | None
    loss: DistanceLoss | None
    restart: bool


def work(asked: Asked) -> None:
    """What one process does, which may be the only one. Raises SystemExit with 130 after Ctrl-C."""
    with process_group(asked.device) as group:
        data, teacher = group.on_every_rank(
            lambda: (datasets.load(asked.dataset, asked.data_dir, asked.limit), _teacher(asked))
        )
        config = RunConfig(
            model=asked.model,
            recipe=asked.recipe,
            seed=asked.seed,
            data_digest=data.digest,
            limit=asked.limit,
            precision=asked.precision,
            threads=asked.threads or _share_of_cpus(),
            device=asked.device,
            processes=group.world_size,
            dataset=asked.dataset,
            teachers=teacher.files if teacher else (),
            loss=asked.loss,
            data_dir=str(asked.data_dir) if asked.data_dir else None,
        )
        run = Run(asked.out or Path("runs") / config.run_name)
        if asked.restart:
            group.on_rank_zero(run.erase)
        if group.is_rank_zero:
            _say(f"{config.run_name}: data from {data.source}, {_where(config)}")
        finished = group.on_rank_zero(run.is_finished)
        try:
            with terminal_observer(config.recipe.epochs, shown=group.is_rank_zero) as observer:
                metrics = trainer.train(config, data, run, observer, teacher, group, asked.distances)
        except KeyboardInterrupt:
            if group.is_rank_zero:
                _say(f"stopped. Go on from the last finished epoch with: {config.command(run.folder)}")
            raise SystemExit(130) from None  # as a shell reports a process that SIGINT ended
        if group.is_rank_zero:
            _say_outcome(run, metrics, finished)


def _share_of_cpus() -> int:
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _where(config: RunConfig) -> str:
    processes = f"{config.processes} processes with " if config.processes > 1 else ""
    teacher = f", learning from {' and '.join(file.path for file in config.teachers)}" if config.teachers else ""
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    return f"{config.device}, {processes}{threads}{teacher}"


def _say_outcome(run: Run, metrics: dict[str, Any], finished: bool) -> None:
    if finished:
        _say("this run had finished already: nothing was trained. --restart trains it anew.")
    summary = metrics["summary"]
    figures = {"accuracy": "accuracy", "o_f1": "O-F1", "exact_match": "exact match"}
    said = [
        f"{split} {name} {summary[split][figure]:.2%}"
        for split in ("validation", "test")
        for figure, name in figures.items()
        if figure in summary[split]
    ]
    _say(f"best epoch {summary['best_epoch']}: {', '.join(said)}, {summary['parameters']:,} parameters")
    _say(f"run: {run.folder}   next: hangtag export {run.folder}")


def _say(line: str) -> None:
    click.echo(line, err=True)  # not rich: it would wrap lines, and take brackets in a path for markup


def _teacher(asked: Asked) -> TeacherEnsemble | None:
    if asked.recipe.distillation is None:
        return None
    return TeacherEnsemble(asked.teachers or published_teachers(asked.recipe.distillation.teacher))
