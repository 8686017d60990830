"""``hangtag train``: its help, and the processes of a run. settings.py declares the options."""

import os
from typing import Any

import click

from hangtag.options import options_of
from hangtag.training import session
from hangtag.training.catalog import NETWORKS
from hangtag.training.errors import SettingsError
from hangtag.training.processes import launch
from hangtag.training.settings import TrainSettings


@click.command()
@click.argument("model")
@options_of(TrainSettings)
def train(**options: Any) -> None:
    """Train MODEL on Fashion-MNIST or on your own pictures. Models that predict several labels learn from composed
    canvases.

    MODEL is one of the networks below, your own network as package.module:callable, or timm:NAME. The callable takes
    the number of labels and the image's description, and returns a torch.nn.Module that maps pixels, FP32 [batch,
    channels, height, width], normalised, to logits [batch, labels].

    The network learns from the training split. The validation split chooses the best epoch, and the test split is
    measured once, at the end. Your own pictures are split by class, unless their folders, or a column of their file,
    already name the splits.

    The run's folder gets config.json, metrics.json, best.pt (the weights of the best epoch), pictures.csv (your own
    pictures with their splits) and, at the end, report.html (the run as a page). If a run was killed, or stopped with
    Ctrl-C, the same command continues it after its last finished epoch.

    \b
    Networks: NETWORKS

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes
      hangtag train cnn --data folder:photos  your own pictures, in photos/CLASS/*.jpg
      hangtag train lstm --data csv:labels.csv --size 64x64 --colour
      hangtag train mypackage.nets:build --data idx:kmnist/ --set batch_size=64
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train cnn --epochs 20 --out runs/longer   twice the study's ten
      hangtag train resnet --precision bf16   the teacher of --recipe best, once exported: ten minutes
      hangtag train cnn_rnn                   predicts the labels of a whole outfit, one after another
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      hangtag train cnn --dry-run             how long it will take, before it begins
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
