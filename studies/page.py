"""Write whole Markdown pages from templates, and marked parts of hand-written pages.

A marked part is the text between two HTML comments, which readers of the page do not see:

    <!-- part: capacity (written by make docs) -->
    ...
    <!-- end of part: capacity -->
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import jinja2

from studies import results

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """A page, or a marked part of a page, with the function that makes the Markdown.

    Args:
        page: The page's path from the repository's root, such as docs/explanation/models.md.
        make: Makes the Markdown. A link that begins with / is relative to the repository's root.
        name: The name of the marked part; None if the page is made as a whole.
    """

    page: str
    make: Callable[[], str]
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.page}, {self.name}" if self.name else self.page

    def page_text(self) -> str:
        """Make this part, and return the page's whole text."""
        up = "../" * self.page.count("/")
        body = self.make().replace("](/", f"]({up}")
        return body if self.name is None else replace_part((ROOT / self.page).read_text(), self.name, body)

    def write(self) -> None:
        (ROOT / self.page).write_text(self.page_text())


def replace_part(text: str, name: str, body: str) -> str:
    """Replace a marked part of a page's text, and return the text.

    Raises:
        click.ClickException: the page has no part of this name, or several.
    """
    begin, end = f"<!-- part: {name} (written by make docs) -->", f"<!-- end of part: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    replaced, count = pattern.subn(lambda _match: f"{begin}\n\n{body.strip()}\n\n{end}", text)
    if count != 1:
        raise click.ClickException(f"the page has {count} parts between {begin} and {end}; it must have one.")
    return replaced


def render(template: Path, **values: Any) -> str:
    """Render a page from a Jinja template. An undefined name is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    return environment.from_string(template.read_text()).render(**values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """Return a Markdown table whose last `right` columns are aligned to the right. Cells may contain | and <."""
    rules = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |"
        for row in (head, rules, *rows)
    )


def made_from(file: Path, conditions: results.Line) -> str:
    """Return a sentence with the results file, the date, the machine and the command of a measurement."""
    name = file.resolve().relative_to(ROOT) if file.resolve().is_relative_to(ROOT) else file.name
    instructions = ", ".join(conditions.get("instructions", ()))
    processor = conditions["processor"] + (f" with {instructions}" if instructions else "")
    versions = ", ".join(f"{package} {version}" for package, version in conditions["versions"].items())
    return (
        f"Made by `make docs` from [{name}](/{name}), measured {conditions['date']} on {conditions['cpus']} CPUs "
        f"({processor}; {versions}) by `{conditions['command']}`"
    )


def short_revision(revision: str) -> str:
    """Return a Git revision with 12 digits, and -dirty if the working tree had uncommitted changes."""
    digits, *dirty = revision.split("-")
    return "-".join([digits[:12], *dirty])


def percent(share: float) -> str:
    """Format a share: 0.9467 is 94.67 %."""
    return f"{share:.2%}".replace("%", " %")
