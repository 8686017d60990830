"""Command-line options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of floats; nan and inf, which compare as they like, are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def runs_option(command: F) -> F:
    """``--runs``, as ``runs``: where a run is looked for by its name."""
    return click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs"),
        show_default=True,
        help="Where RUN is looked for when it is a name.",
    )(command)


def refuse(*names: str, because: str, variables: bool = False) -> None:
    """Raises UsageError for those of these options that were given on the command line, as they would go unused.

    variables: and for those given as environment variables, which may otherwise be meant for another call.
    """
    sources = {ParameterSource.COMMANDLINE, *([ParameterSource.ENVIRONMENT] if variables else [])}
    context = click.get_current_context()
    options = {option.name: max(option.opts, key=len) for option in context.command.params}
    given = [options[name] for name in names if context.get_parameter_source(name) in sources]
    if given:
        raise click.UsageError(f"{' and '.join(given)}: {because}")
