"""Packages that not every installation has: what to say where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Imports in this context may fail: ClickException then names the module and the extra that has it.

    what: the command, or the part of it, that cannot work without.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{what} needs the Python module {error.name!r}, which is not installed here. "
            f"In the project's folder, install it with: pip install '.[{extra}]'"
        ) from error
