"""``hangtag train``: the options, made from settings.py, and the processes of a run."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hangtag.errors import UserError
from hangtag.options import FiniteRange
from hangtag.training import session
from hangtag.training.catalog import NETWORKS
from hangtag.training.errors import SettingsError
from hangtag.training.processes.launch import launch
from hangtag.training.settings import OPTIONS, Option, TrainSettings


class ReportedOnce(click.Command):
    """A command that may run in several processes: rank 0 alone reports wrong arguments and errors."""

    def make_context(self, *args: object, **extra: object) -> click.Context:
        with _rank_zero_reports():
            return super().make_context(*args, **extra)  # type: ignore[arg-type]

    def invoke(self, ctx: click.Context) -> object:
        with _rank_zero_reports():
            return super().invoke(ctx)


@contextmanager
def _rank_zero_reports() -> Iterator[None]:
    """Let rank 0 alone raise an error; the other ranks exit without a message. torchrun has set RANK."""
    try:
        yield
    except (UserError, click.ClickException) as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        raise SystemExit(getattr(error, "exit_code", 1)) from None


class NetworkName(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """The name of a network; the error about an unknown one ends with the nearest known name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = difflib.get_close_matches(str(value), self.choices, n=1)
            self.fail(error.message + (f" Did you mean {near[0]!r}?" if near else ""), param, ctx)


@click.command(cls=ReportedOnce)
@click.argument("model", type=NetworkName(list(NETWORKS)))
def train(**options: Any) -> None:
    """Train MODEL on Fashion-MNIST, or, if it predicts several labels, on canvases composed from it.

    The run's folder gets config.json, metrics.json and best.pt, the weights of the epoch that is best on the
    validation split: by accuracy, or by O-F1 for several labels; and at the end report.html, the run as a page. A run
    that was killed, or stopped with Ctrl-C, resumes after its last finished epoch when the same command is run again. A
    finished run goes on with a larger --epochs, if its recipe has a constant learning rate, as study has.

    \b
    Examples:
      hangtag train lstm                      the study's recipe, some minutes on two cores
      hangtag train cnn --seed 1              another seed, in a folder of its own
      hangtag train cnn --epochs 20           ten epochs more than the study's ten
      hangtag train resnet --precision bf16   the teacher of --recipe best, once exported: ten minutes
      hangtag train lstm --recipe study --seed 1 --loss embedding-distance
      hangtag train cnn_rnn                   predicts the labels of a whole outfit, one after another
      hangtag train lstm --limit 2000 --epochs 1 --out runs/trial
      hangtag train cnn --recipe best --dry-run   how long, and how much memory, before it begins
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


def _type(option: Option) -> Any:
    """The option's type for click, which checks the same choices and range when it parses."""
    if option.choices:
        return click.Choice(option.choices)
    bounds = {"min": option.minimum, "max": option.maximum, "min_open": option.excludes_minimum}
    kinds = {int: click.IntRange(**bounds), float: FiniteRange(**bounds), str: str, bool: bool}  # type: ignore[arg-type]
    return kinds.get(option.type) or click.Path(path_type=option.type)


train.params += [
    click.Option(
        [option.flag, name],
        type=_type(option),
        default=list(option.default) if option.repeatable else option.default,
        multiple=option.repeatable,
        is_flag=option.type is bool,
        show_default=option.type is not bool and option.default not in (None, ()),
        metavar=option.metavar,
        help=option.help,
    )
    for name, option in OPTIONS.items()
]
