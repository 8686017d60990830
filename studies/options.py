"""The options that several experiments have, each declared once."""

from collections.abc import Collection, Iterable
from pathlib import Path

import click
from click.core import ParameterSource

from studies import results

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
    "--out",
    type=click.Path(path_type=Path),
    help="The results file. [default: the page's, unless options change what is measured]",
)


def given() -> str:
    """The options of the running command that were given, as they are typed, each after a space; without --out."""
    context = click.get_current_context()
    words = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if name != "out" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words.append(parameter.opts[0])
            words += [] if context.params[name] is True else [str(context.params[name])]
    return "".join(f" {word}" for word in words)


def write(out: Path | None, page: Path, lines: Iterable[results.Line], *, complete: bool) -> None:
    """Write the results, and say where.

    Args:
        out: The option of OUT.
        page: The results file of which a page is made.
        lines: The results.
        complete: They are what the page shows. Other results go nowhere without ``out``, lest the page change.
    """
    if file := out or (page if complete else None):
        results.write(file, lines)
        click.echo(f"wrote {file}")
    else:
        click.echo(f"Not recorded: the options are not those of the results in {page.name}. --out FILE records it.")


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
