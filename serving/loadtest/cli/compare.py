"""`hangtag loadtest compare`: compares saved results."""

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from hangtag.output import writing
from hangtag.printable import escaped
from hangtag.serving.loadtest.cli import report_files
from hangtag.serving.loadtest.comparison.compare import compare_saved
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.report.json_reader import read

_FILE = click.Path(dir_okay=False, path_type=Path)


def warn_of_other_machine(saved: SavedResults, environment: Mapping[str, str], console: Console) -> None:
    """Print a warning for each difference between the machines of saved results and of this environment."""
    for line in saved.machine_differences(environment):
        console.print(Text.assemble(("WARNING ", "bold yellow"), escaped(f"different machines. {line}")))


@click.command("compare")
@click.argument("a", type=_FILE, metavar="A.json")
@click.argument("b", type=_FILE, metavar="B.json")
@click.option("--html", "html_file", type=_FILE, help="Write a page with both runs side by side.")
@click.option("--json", "json_file", type=_FILE, help="Write the comparison as JSON.")
def compare(a: Path, b: Path, html_file: Path | None, json_file: Path | None) -> None:
    """Compare saved results: B's figures as multiples of A's, for every target and load in both.

    Blocks of two files did not run next to each other, so drift of the machine between them is part of the ratio.
    Results of different machines are compared with a warning: their ratio depends on the machines as much as on the
    models.

    \b
    Examples:
      hangtag loadtest cnn --json before.json      then change something, and measure again
      hangtag loadtest cnn --json after.json
      hangtag loadtest compare before.json after.json --html comparison.html

    \b
    Exit code: 0 compared, 1 a file cannot be used or nothing can be compared.
    """
    # Not above: it imports matplotlib, which takes half of the start of `hangtag loadtest`.
    from hangtag.serving.loadtest.report import saved_comparison

    report_files.require_all_writable({"html": html_file, "json": json_file})
    before, after = read(a), read(b)
    console = Console()
    warn_of_other_machine(before, after.environment, console)
    comparisons = compare_saved(before, after)
    if not comparisons:
        raise click.ClickException(f"{a} and {b} have no target and load in common, so there is nothing to compare")
    pairs = saved_comparison.pairs_of(before, after, comparisons)
    saved_comparison.render_differences(before, after, console)
    saved_comparison.render_table(pairs, console)
    for file, render in ((html_file, saved_comparison.render_page), (json_file, saved_comparison.render_json)):
        if file is not None:
            text = render(before, after, pairs)
            with writing(file):
                file.write_text(text, encoding="utf-8")
