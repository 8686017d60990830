"""Options that several experiments share."""

from collections.abc import Collection
from pathlib import Path

import click
from click.core import ParameterSource

MODELS = click.option(
    "--models",
    type=click.Path(exists=True, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="The model repository.",
)
ROUNDS = click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="The number of times to measure each system."
)
SECONDS = click.option(
    "--seconds",
    type=click.FloatRange(0.05),
    default=3.0,
    show_default=True,
    help="The approximate duration of the run under each load.",
)
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The results file.  [default: the page's results file, or none if other options are set]",
)


def complete(*names: str) -> bool:
    """Return True if the user gave none of these options: the run then measures all that the page shows."""
    context = click.get_current_context()
    return all(context.get_parameter_source(name) is not ParameterSource.COMMANDLINE for name in names)


class Names(click.ParamType[tuple[str, ...]]):
    """Names from a list of known names, separated by commas. The value lists them in the order of the known names."""

    name = "names"

    def __init__(self, known: Collection[str]) -> None:
        self._known = known

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = {name.strip() for name in value.split(",")} if isinstance(value, str) else set(value)
        if unknown := names - set(self._known):
            self.fail(f"{', '.join(sorted(unknown))}: expected some of {','.join(self._known)}.", param, ctx)
        return tuple(name for name in self._known if name in names)
