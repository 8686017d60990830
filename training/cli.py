"""``hangtag train``: parse, train with a progress bar, say where the run lies."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from training import data as fashion_mnist
from training import datasets, label_distance, trainer
from training.config import RunConfig
from training.distributed import joined
from training.label_distance import LabelDistances
from training.losses import BETA, LOSS_WEIGHT, DistanceLoss
from training.progress import watched
from training.recipes import RECIPES, Recipe, default_recipe, recipe_for
from training.run import Run
from training.teacher import Ensemble, latest


@click.command()
@click.argument("model", type=click.Choice(list(datasets.ALL_MODELS)))
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="How to train: as the study did, or for the best accuracy in the same network; the networks for several "
    "labels have one of their own.  [default: study, or multi-label]",
)
@click.option(
    "--data",
    type=click.Choice(list(datasets.DATASETS)),
    help="What to learn from.  [default: fashion-mnist; outfits for the networks for several labels]",
)
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
    help="Folder with Fashion-MNIST's IDX files, or with VOCdevkit.  "
    "[default: Debian's package for Fashion-MNIST, else a download by torchvision]",
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
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The ONNX file to learn from, where the recipe has a teacher; of several, the answers' average.  "
    "[default: the latest under models/]",
)
@click.option(
    "--loss",
    type=click.Choice(["cross-entropy", "soft-labels", "embedding-distance"]),
    default="cross-entropy",
    show_default=True,
    help="What is minimised. The last two know how bad a mistake is, by distances of labels.",
)
@click.option(
    "--beta",
    type=click.FloatRange(min=0, min_open=True),
    help=f"How fast a label's nearness fades with distance.  [default: {BETA:g}]",
)
@click.option(
    "--loss-weight",
    type=click.FloatRange(0, 1),
    help=f"Of the distances' part in the loss.  [default: {LOSS_WEIGHT:g}]",
)
@click.option(
    "--distances",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The distances of labels, JSON of 'hangtag labels'.  [default: what ships]",
)
@click.option("--restart", is_flag=True, help="Discard what the run's folder holds and begin anew.")
def train(
    model: str,
    recipe: str | None,
    data: str | None,
    seed: int,
    data_dir: Path | None,
    out: Path | None,
    epochs: int | None,
    limit: int | None,
    threads: int | None,
    precision: str,
    device: str,
    teachers: tuple[Path, ...],
    loss: str,
    beta: float | None,
    loss_weight: float | None,
    distances: Path | None,
    restart: bool,
) -> None:
    """Train MODEL on Fashion-MNIST, or, if it is one for several labels, on canvases composed from it.

    The run's folder gets config.json, metrics.json and best.pt, the weights of the epoch with the best validation
    accuracy. A run that was killed, or stopped with Ctrl-C, goes on from its last finished epoch when the same command
    is given again.

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes on two cores
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train cnn --recipe teacher      a cnn that others learn from, in hours
      hangtag train lstm --recipe study --seed 1 --loss embedding-distance
      hangtag train cnn_rnn                   the labels of a whole outfit, one after another
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      torchrun --nproc-per-node 2 -m hangtag train cnn        two processes, or GPUs, on every batch
    """
    device = _pick_device(device)
    data = datasets.pick(data, model)
    if data in datasets.MULTI_LABEL and loss != "cross-entropy":
        raise click.UsageError(f"--loss {loss}: {model} has a loss of its own; the distances are for single labels.")
    chosen = _pick_recipe(recipe or default_recipe(model), model, epochs)
    taught_by = _pick_teacher(chosen, teachers)
    measured_by, distance_loss = _pick_loss(loss, beta, loss_weight, distances)
    dataset = datasets.load(data, data_dir)
    with joined(device) as group:
        config = RunConfig(
            model=model,
            recipe=chosen,
            seed=seed,
            data_digest=dataset.digest,
            limit=limit,
            precision=precision,
            threads=threads or max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
            device=device,
            processes=group.size,
            dataset=data,
            teachers=taught_by.files if taught_by else (),
            loss=distance_loss,
            data_dir=str(data_dir) if data_dir else None,
        )
        run = Run(out or Path("runs") / config.run_name)
        if restart and group.is_first:
            run.erase()
        if group.is_first:
            _say(f"{config.run_name}: data from {dataset.source}, {_where(config)}")
        finished = group.share(run.is_finished())
        try:
            with watched(config.recipe.epochs, shown=group.is_first) as report:
                metrics = trainer.train(config, dataset, run, report, taught_by, group, measured_by)
        except KeyboardInterrupt:
            if not group.is_first:
                raise SystemExit(130) from None
            _say(f"stopped. Go on from the last finished epoch with: {config.command(run.folder)}")
            raise SystemExit(130) from None  # as a shell reports a process that SIGINT ended
        if group.is_first:
            _say_outcome(run, metrics, finished)


def _where(config: RunConfig) -> str:
    processes = f"{config.processes} processes with " if config.processes > 1 else ""
    teacher = f", learning from {' and '.join(file.path for file in config.teachers)}" if config.teachers else ""
    return f"{config.device}, {processes}{config.threads} threads{teacher}"


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


def _pick_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
    return device


def _pick_recipe(name: str, model: str, epochs: int | None) -> Recipe:
    try:
        recipe = recipe_for(name, model)
    except KeyError as error:
        raise click.UsageError(f"--recipe {name}: {error.args[0]}") from error
    return replace(recipe, epochs=epochs) if epochs else recipe


def _pick_teacher(recipe: Recipe, paths: tuple[Path, ...]) -> Ensemble | None:
    if recipe.distillation is None:
        if paths:
            raise click.UsageError(f"--teacher {paths[0]}: recipe {recipe.name} learns from the labels alone.")
        return None
    return Ensemble(paths or [latest(recipe.distillation.teacher, Path("models"))])


def _pick_loss(
    name: str, beta: float | None, weight: float | None, path: Path | None
) -> tuple[LabelDistances | None, DistanceLoss | None]:
    if name not in ("soft-labels", "embedding-distance"):
        given = {"--beta": beta, "--loss-weight": weight, "--distances": path}
        if unused := [option for option, value in given.items() if value is not None]:
            raise click.UsageError(
                f"{' and '.join(unused)}: the {name} knows no distances; add --loss embedding-distance."
            )
        return None, None
    distances = label_distance.read(path) if path else label_distance.default()
    distances.require(fashion_mnist.LABELS)
    return distances, DistanceLoss(
        name="soft-labels" if name == "soft-labels" else "embedding-distance",
        beta=BETA if beta is None else beta,
        weight=LOSS_WEIGHT if weight is None else weight,
        distances=distances.digest,
        file=str(path) if path else None,
    )
