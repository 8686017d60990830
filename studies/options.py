"""The options that several experiments have, each declared once."""

from collections.abc import Collection
from pathlib import Path

import click

MODELS = click.option(
    "--models",
    type=click.Path(exists=True, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="The model repository.",
)
ROUNDS = click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each system."
)
SECONDS = click.option(
    "--seconds", type=click.FloatRange(0.05), default=3.0, show_default=True, help="Approximate duration of each load."
)
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="The results file. [default: the page's, if nothing is left out]"
)


class Names(click.ParamType[tuple[str, ...]]):
    """Names with a comma between them, each one of those that are known; they keep the order of these."""

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
