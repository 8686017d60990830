"""Makes and prints tables without lines, and prints JSON.

Cells may be texts from a file, so markup in them has no effect, and control characters are escaped.
"""

import io
import json
import sys
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.printable import escaped


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Collection[str] = (), title: str | None = None
) -> Table:
    """Make a table with a row of headers, and perhaps a title. The columns whose headers are in ``right`` are aligned
    right. A cell that is a Text keeps its style."""
    made = Table(title_justify="left", box=None, pad_edge=False, header_style="dim")
    made.title = Text(escaped(title), "dim") if title else None
    for header in headers:
        made.add_column(Text(escaped(header)), justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def facts(lines: Iterable[tuple[str, str | Text]]) -> Table:
    """Make a table in which each row has a bold name and a text."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for line in lines:
        made.add_row(*map(_cell, line))
    return made


def _cell(text: str | Text) -> Text:
    return text if isinstance(text, Text) else Text(escaped(text))


def print_plain(content: Table | str) -> None:
    """Print a table or a text in the width of the terminal.

    In a pipe or a file, each row is printed on one line, so that programs can search the rows.
    """
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(content)
        return
    text = io.StringIO()
    Console(file=text, width=100_000, highlight=False, color_system=None).print(content)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def print_json(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value, indent=1)}\n")
