"""``hangtag train``: the options, and the processes of a run."""

import os
from pathlib import Path
from typing import Any, get_args

import click

from hangtag.options import FiniteRange
from hangtag.training import session
from hangtag.training.catalog import NETWORKS, RECIPE_NAMES
from hangtag.training.data import sources
from hangtag.training.data.options import data_options
from hangtag.training.errors import SettingsError
from hangtag.training.processes import launch
from hangtag.training.recipes import BETA, LOSS_WEIGHT, DistanceLossName
from hangtag.training.settings import TrainSettings


@click.command()
@click.argument("model")
@click.option(
    "--data",
    metavar="SOURCE",
    help=f"What to learn from: {', '.join(sources.KNOWN)}; or your own pictures: folder:PHOTOS (PHOTOS/CLASS/*.jpg, or "
    "PHOTOS/train/CLASS and PHOTOS/test/CLASS), csv:FILE (with the columns path, label and perhaps split), idx:FOLDER "
    "(four files as MNIST has them). 'hangtag data show SOURCE' shows them.  [default: fashion-mnist; outfits for the "
    "networks for several labels]",
)
@data_options
@click.option(
    "--recipe",
    type=click.Choice(RECIPE_NAMES),
    help="How to train: as the study did, for the best accuracy in the same network, for longer from a teacher that "
    "sees the same augmented images, to become a teacher, or as suits anybody's pictures; the networks for several "
    "labels have one of their own.  [default: pictures for your own, else the first that MODEL has of study, teacher, "
    "multi-label]",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a hyperparameter of the recipe, such as learning_rate=3e-3, batch_size=64, flip=true or dropout=0.3. "
    "A wrong name lists all. May be repeated.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Replaces the recipe's number of epochs.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Decides initial weights, order and dropout.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Train on the first N images only, and validate on N: for quick trials.",
)
@click.option("--balance", is_flag=True, help="Weigh classes so that each counts alike, however many pictures it has.")
@click.option(
    "--select",
    type=click.Choice(("accuracy", "balanced_accuracy")),
    default="accuracy",
    show_default=True,
    help="Which validation figure chooses the best epoch; balanced_accuracy counts each class alike.",
)
@click.option(
    "--start-from",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE.pt",
    help="Begin with the weights of an earlier run's best.pt, or of another file of PyTorch's, where they fit: the "
    "last layer starts fresh for other labels.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Start this many processes, each of which computes its share of every batch; one for each GPU.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), help="CPU threads of each process.  [default: its share of the CPUs]"
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "bf16")),
    default="fp32",
    show_default=True,
    help="Arithmetic of the training steps. bf16 is faster where the CPU or GPU has it; weights stay FP32.",
)
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Where to train. auto takes the GPU if PyTorch sees one.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    help="The model to learn from, where the recipe has a teacher. Repeat it to learn from the average of several.  "
    "[default: every version of the recipe's teacher under runs/teachers/]",
)
@click.option(
    "--loss",
    type=click.Choice(("cross-entropy", *get_args(DistanceLossName))),
    default="cross-entropy",
    show_default=True,
    help="The loss to minimise. The last two weigh mistakes by label distances.",
)
@click.option(
    "--beta",
    type=FiniteRange(min=0, min_open=True),
    default=BETA,
    show_default=True,
    help="How fast a label's weight falls with its distance.",
)
@click.option(
    "--loss-weight",
    type=FiniteRange(0, 1),
    default=LOSS_WEIGHT,
    show_default=True,
    help="The weight of the loss's part with distances.",
)
@click.option(
    "--distances",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="The label distances that --loss uses, as 'hangtag labels RUN --json FILE.json' writes them.  [default: the "
    "file that ships, of the ten garments]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run's folder.  [default: runs/MODEL-RECIPE-seedSEED, with other data or another loss named too]",
)
@click.option(
    "--tensorboard",
    is_flag=True,
    help="Log losses, accuracies and the learning rate for TensorBoard. Needs the extra tensorboard.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what the run would take: data, network, steps, and the time, from a few measured steps. Leave no run.",
)
@click.option("--restart", is_flag=True, help="Discard the run in the folder and start again.")
def train(**options: Any) -> None:
    """Train MODEL on Fashion-MNIST or on your own pictures; one that predicts several labels, on composed canvases.

    MODEL is one of the networks of 'hangtag train --help' below, your own as package.module:callable, or timm:NAME. The
    callable takes the number of labels and the image's description, and returns a torch.nn.Module that maps pixels,
    FP32 [batch, channels, height, width], normalised, to logits [batch, labels].

    The run's folder gets config.json, metrics.json and best.pt, the weights of the epoch that is best on the
    validation split; and at the end report.html, the run as a page. A run that was killed, or stopped with Ctrl-C,
    resumes after its last finished epoch when the same command is run again. A finished run goes on with a larger
    --epochs, if its recipe has a constant learning rate, as study has.

    \b
    Networks: NETWORKS

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes on two cores
      hangtag train cnn --data folder:photos  your own pictures, in photos/CLASS/*.jpg
      hangtag train lstm --data csv:labels.csv --size 64x64 --colour
      hangtag train mypackage.nets:build --data idx:kmnist/ --set learning_rate=3e-3
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train cnn --epochs 20           ten epochs more than the study's ten
      hangtag train resnet --precision bf16   the teacher of --recipe best, once exported: ten minutes
      hangtag train lstm --recipe study --seed 1 --loss embedding-distance
      hangtag train cnn_rnn                   predicts the labels of a whole outfit, one after another
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      hangtag train cnn --recipe best --dry-run   how long it will take, before it begins
      hangtag train cnn --processes 2         two processes, or GPUs, on every batch
    """
    try:
        settings = TrainSettings(**options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if settings.processes == 1:
        session.train(settings)
    elif "WORLD_SIZE" in os.environ:
        raise click.UsageError("--processes: WORLD_SIZE is set, so torchrun has started the processes already.")
    else:
        launch(settings.processes, session.train, settings)


assert train.help is not None
train.help = train.help.replace("NETWORKS", ", ".join(NETWORKS))
