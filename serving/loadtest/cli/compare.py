"""``hangtag loadtest compare``: saved runs side by side."""

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from hangtag.serving.loadtest.comparison import saved as saved_comparison
from hangtag.serving.loadtest.report.json_reader import SavedResults, read

_FILE = click.Path(dir_okay=False, path_type=Path)


def warn_of_machines(saved: SavedResults, environment: Mapping[str, str], console: Console) -> None:
    """Say so where the saved results are of another machine than those with this environment."""
    for line in saved.other_machine(environment):
        console.print(Text.assemble(("WARNING ", "bold yellow"), f"different machines. {line}"))


@click.command("compare")
@click.argument("a", type=_FILE, metavar="A.json")
@click.argument("b", type=_FILE, metavar="B.json")
def compare(a: Path, b: Path) -> None:
    """Compare saved results: B's figures as multiples of A's, for every target and load that both have.

    Blocks of two files did not run next to each other, so what drifted between them is part of the ratio. Results of
    different machines are compared with a warning: their ratio says as much about the machines.

    \b
    Exit code: 0 compared, 1 a file cannot be used or nothing can be compared.
    """
    before, after = read(a), read(b)
    console = Console()
    warn_of_machines(before, after.environment, console)
    compared = saved_comparison.compare_saved(before, after)
    if not compared:
        raise click.ClickException(f"{a} and {b} have no target and load in common, so there is nothing to compare")
    for one in compared:
        console.print(Text(one.sentence))
