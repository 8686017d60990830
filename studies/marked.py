"""Figures that stand between two marks of a document, and are replaced as a whole."""

import click

END = "<!-- end of figures -->\n"


def begin(module: str) -> str:
    """The mark before the figures that this module makes."""
    return f"<!-- figures: made by {module} -->\n"


def replaced(page: str, mark: str, figures: str) -> str:
    """The page with what stands between the mark and END replaced. Raises click.ClickException if it lacks one."""
    before, found, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise click.ClickException("the page has no place for the figures: the two marks are missing")
    return before + mark + figures + END + after
