"""``hangtag train``: parse, train with a progress bar, say where the run lies."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch

from hangtag.options import FiniteRange, refuse
from hangtag.training import session
from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, RECIPE_NAMES, dataset_for, recipe_for
from hangtag.training.data import fashion_mnist
from hangtag.training.data.datasets import DATASETS
from hangtag.training.errors import SettingsError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.losses.single_label import BETA, LOSS_WEIGHT, DistanceLoss
from hangtag.training.processes.launch import ReportedOnce, launch
from hangtag.training.recipes import Recipe
from hangtag.training.session import Asked


@click.command(cls=ReportedOnce)
@click.argument("model", type=click.Choice(list(NETWORKS)))
@click.option(
    "--recipe",
    type=click.Choice(RECIPE_NAMES),
    help="How to train: as the study did, for the best accuracy in the same network, or to become a teacher; the "
    "networks for several labels have one of their own.  [default: the first that MODEL has of study, teacher, "
    "multi-label]",
)
@click.option(
    "--data",
    type=click.Choice(DATASETS),
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
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run's folder.  [default: runs/MODEL-RECIPE-seedSEED, with other data or another loss named too]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's number of epochs.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Train on the first N images only, and validate on N: for quick trials."
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Start so many processes, each of which answers its share of every batch; one for each GPU.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), help="CPU threads of each process.  [default: its share of the CPUs]"
)
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
    metavar="FILE.onnx",
    multiple=True,
    help="What to learn from, where the recipe has a teacher; given several times, from the average of the answers.  "
    "[default: every version of the recipe's teacher under runs/teachers/]",
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
    type=FiniteRange(min=0, min_open=True),
    help=f"How fast a label's nearness fades with distance.  [default: {BETA:g}]",
)
@click.option(
    "--loss-weight",
    type=FiniteRange(0, 1),
    help=f"Of the distances' part in the loss.  [default: {LOSS_WEIGHT:g}]",
)
@click.option(
    "--distances",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="The distances of labels that --loss knows, as 'hangtag labels RUN --json FILE.json' writes them.  "
    "[default: what ships]",
)
@click.option("--restart", is_flag=True, help="Discard what the run's folder holds and begin anew.")
def train(  # the names are the options'
    model: str,
    recipe: str | None,
    data: str | None,
    seed: int,
    data_dir: Path | None,
    out: Path | None,
    epochs: int | None,
    limit: int | None,
    processes: int,
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

    The run's folder gets config.json, metrics.json and best.pt, the weights of the epoch that did best on the
    validation split: by accuracy, or by O-F1 for several labels. A run that was killed, or stopped with Ctrl-C, goes on
    from its last finished epoch when the same command is given again.

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes on two cores
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train resnet --precision bf16   what --recipe best learns from, once exported: ten minutes
      hangtag train lstm --recipe study --seed 1 --loss embedding-distance
      hangtag train cnn_rnn                   the labels of a whole outfit, one after another
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      hangtag train cnn --processes 2         two processes, or GPUs, on every batch
    """
    device = _pick_device(device)
    data = _pick_data(data, model)
    if model in MULTI_LABEL_NETWORKS:
        refuse(
            "loss", "beta", "loss_weight", "distances",
            because=f"{model} has a loss of its own; distances are of single labels.", variables=True,
        )  # fmt: skip
    chosen = _pick_recipe(recipe, model, epochs)
    _require_use_of(teachers, chosen)
    measured_by, distance_loss = _pick_loss(loss, beta, loss_weight, distances)
    asked = Asked(
        model=model,
        recipe=chosen,
        dataset=data,
        data_dir=data_dir,
        out=out,
        seed=seed,
        limit=limit,
        threads=threads,
        precision=precision,
        device=device,
        teachers=teachers,
        distances=measured_by,
        loss=distance_loss,
        restart=restart,
    )
    if processes == 1:
        session.work(asked)
    elif "WORLD_SIZE" in os.environ:
        raise click.UsageError("--processes: WORLD_SIZE is set, so that the processes were started already.")
    else:
        launch(processes, session.work, asked)


def _pick_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
    return device


def _pick_data(name: str | None, model: str) -> str:
    try:
        return dataset_for(name, model)
    except SettingsError as error:
        raise click.UsageError(f"--data {name}: {error}") from error


def _pick_recipe(name: str | None, model: str, epochs: int | None) -> Recipe:
    try:
        recipe = recipe_for(name, model)
    except SettingsError as error:
        raise click.UsageError(f"--recipe {name}: {error}") from error
    return replace(recipe, epochs=epochs) if epochs else recipe


def _require_use_of(teachers: Sequence[Path], recipe: Recipe) -> None:
    if teachers and recipe.distillation is None:
        raise click.UsageError(f"--teacher {teachers[0]}: recipe {recipe.name} learns from the labels alone.")


def _pick_loss(
    name: str, beta: float | None, weight: float | None, path: Path | None
) -> tuple[LabelDistances | None, DistanceLoss | None]:
    if name not in ("soft-labels", "embedding-distance"):
        refuse(
            "beta", "loss_weight", "distances",
            because=f"the {name} knows no distances; add --loss embedding-distance.", variables=True,
        )  # fmt: skip
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
