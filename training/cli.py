"""``hangtag train``: its help, and the processes of a run. run_settings.py declares the options."""

import os
from typing import Any

import click

from hangtag.options import options_of
from hangtag.training import training_session
from hangtag.training.catalog import NETWORKS
from hangtag.training.errors import SettingsError
from hangtag.training.processes import launch
from hangtag.training.run_settings import TrainSettings


@click.command()
@click.argument("model")
@options_of(TrainSettings)
def train(**options: Any) -> None:
    """Train MODEL on Fashion-MNIST or on your own pictures. Multi-label models are trained on canvases that show
    several garments.

    MODEL is one of the networks below, your own network as package.module:callable, or timm's network as timm:NAME. The
    callable takes the number of labels and the image's description, and returns a torch.nn.Module that maps
    normalised pixels, FP32 [batch, channels, height, width], to logits [batch, labels].

    The network learns from the training split. The best epoch is chosen on the validation split, and is measured on the
    test split once, at the end. Your own pictures are split class by class, unless their folders, or a column of the
    CSV file, already name the splits.

    The run's folder receives config.json, metrics.json, best.pt (the weights of the best epoch), pictures.csv (your own
    pictures with their splits) and, at the end, report.html (a page about the run). If a run was killed, or stopped
    with Ctrl-C, the same command continues the run after its last finished epoch.

    \b
    Networks: NETWORKS

    \b
    Examples:
      hangtag train lstm                      trains by the study's recipe in some minutes
      hangtag train cnn --data folder:photos  trains on your own pictures, photos/CLASS/*.jpg
      hangtag train lstm --data csv:labels.csv --size 64x64 --colour
      hangtag train mypackage.nets:build --data idx:kmnist/ --set batch_size=64
      hangtag train cnn --seed 1              trains with another seed, in another folder
      hangtag train resnet --precision bf16   trains a teacher for --recipe best in ten minutes
      hangtag train cnn_rnn                   trains a model that predicts all labels of an outfit
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      hangtag train cnn --dry-run             shows how long a run would take
    """
    try:
        settings = TrainSettings(**options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if settings.processes == 1:
        training_session.train(settings)
    elif "WORLD_SIZE" in os.environ:
        raise click.UsageError("--processes: WORLD_SIZE is set, so torchrun has started them. Omit --processes.")
    else:
        launch(settings.processes, training_session.train, settings)


assert train.help is not None
train.help = train.help.replace("NETWORKS", ", ".join(NETWORKS))
