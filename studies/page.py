"""Writes Markdown pages: whole ones from a template, and marked parts of hand-written ones.

A marked part stands between two comments that no reader of the page sees:

    <!-- part: capacity (written by make docs) -->
    ...
    <!-- end of part: capacity -->
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import jinja2

from studies import results

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """A whole page, or one marked part of it, and the function that makes its Markdown.

    Args:
        page: The page's path from the repository's root, such as docs/study.md.
        make: Makes the Markdown. Raises click.ClickException where results are missing or malformed.
        name: The marked part's name; None for a whole page.
    """

    page: str
    make: Callable[[], str]
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.page}, {self.name}" if self.name else self.page

    def page_text(self) -> str:
        """The page's whole text with this part as it should be, and everything else as it is."""
        if self.name is None:
            return self.make()
        return replace_part((ROOT / self.page).read_text(), self.name, self.make())

    def write(self) -> None:
        (ROOT / self.page).write_text(self.page_text())


def replace_part(text: str, name: str, body: str) -> str:
    """A page's text with one marked part replaced.

    Raises:
        click.ClickException: the page has no part of this name, or several.
    """
    begin, end = f"<!-- part: {name} (written by make docs) -->", f"<!-- end of part: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    replaced, count = pattern.subn(lambda _match: f"{begin}\n\n{body.strip()}\n\n{end}", text)
    if count != 1:
        raise click.ClickException(f"the page has {count} parts between {begin} and {end}, expected one.")
    return replaced


def render(template: Path, **values: Any) -> str:
    """A page from a Jinja template. It may use the filters percent and code; an undefined name is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    environment.filters |= {"percent": percent, "code": code}
    return environment.from_string(template.read_text()).render(**values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A Markdown table whose last `right` columns are aligned to the right. In a cell | and < are plain text."""
    rules = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |"
        for row in (head, rules, *rows)
    )


def made_from(file: Path, conditions: results.Line) -> str:
    """The sentence that says what results a part of a page in docs/ is made of, on what machine they were measured."""
    name = file.resolve().relative_to(ROOT) if file.resolve().is_relative_to(ROOT) else file.name
    instructions = ", ".join(conditions.get("instructions", ()))
    processor = conditions["processor"] + (f" with {instructions}" if instructions else "")
    versions = ", ".join(f"{package} {version}" for package, version in conditions["versions"].items())
    return (
        f"Made by `make docs` from [{name}](../{name}), measured {conditions['date']} on {conditions['cpus']} CPUs "
        f"({processor}; {versions}) by `{conditions['command']}`"
    )


def short_revision(revision: str) -> str:
    """A Git revision with 12 digits, and -dirty where its tree had changes that were not committed."""
    digits, *dirty = revision.split("-")
    return "-".join([digits[:12], *dirty])


def percent(share: float) -> str:
    """0.9467 as 94.67 %."""
    return f"{share:.2%}".replace("%", " %")


def spread(values: Sequence[float], *, signed: bool = False, digits: int = 2) -> str:
    """The mean, and the standard deviation where there are several values."""
    middle = f"{mean(values):{'+' if signed else ''}.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {stdev(values):.{digits}f}"


def code(names: Sequence[str]) -> str:
    """Names as a sentence lists them: `a`, `b` and `c`."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last
