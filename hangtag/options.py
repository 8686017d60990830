"""Command-line options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of floats that refuses NaN and infinity, which click's comparisons let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def models_option(about: str, parameter: str = "models") -> Callable[[F], F]:
    """``--models``, a model repository, which HANGTAG_MODELS sets for all commands.

    Args:
        about: The help text.
        parameter: The name under which the command receives it.
    """
    return click.option(
        "--models",
        parameter,
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("models"),
        envvar="HANGTAG_MODELS",
        show_default=True,
        show_envvar=True,
        help=about,
    )


def runs_option(command: F) -> F:
    """``--runs``, as ``runs``: where a run is looked for by its name."""
    return click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs"),
        show_default=True,
        help="Where RUN is looked for when it is a name.",
    )(command)


def limit_option(command: F) -> F:
    """``--limit``, as ``limit``: the first N images alone, or None."""
    return click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images, for quick trials.")(
        command
    )


def samples_option(command: F) -> F:
    """``--samples``, as ``samples``: pictures with their labels in place of a data set, or None."""
    return click.option(
        "--samples",
        metavar="FILE.npz|folder:PICTURES|csv:FILE",
        help="Your own pictures with their labels: the arrays images and labels of an .npz file, a folder for each "
        "label, or a CSV file with the columns path and label.  [default: the data set that the model was trained on]",
    )(command)


def refuse(*names: str, because: str) -> None:
    """Raise UsageError if the command line has one of these options, which the command would not use.

    Environment variables are ignored, since they may be meant for another call.

    Args:
        names: The options' Python names.
        because: The reason, which the message ends with.
    """
    context = click.get_current_context()
    flags = {option.name: max(option.opts, key=len) for option in context.command.params}
    unused = [flags[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if unused:
        raise click.UsageError(f"{' and '.join(unused)}: {because}")
