"""Escapes texts that come from a model's file, a route's file, a server or a caller, so that printing is safe.

Terminal escapes in such a text could hide other output, and a line break could forge a line of output. Texts in JSON
are not escaped again, because JSON itself escapes these characters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

T = TypeVar("T")
_NAMED = 5


def escaped(text: str) -> str:
    """Return the text with each unprintable character, including line breaks, replaced by an escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def printable(value: T) -> T:
    """Return a copy of a value in which every text is ``escaped``, also inside dataclasses, mappings and sequences."""
    copy: Any = value
    if isinstance(value, str):
        copy = escaped(value)
    elif is_dataclass(value) and not isinstance(value, type):
        copy = replace(value, **{field.name: printable(getattr(value, field.name)) for field in fields(value)})
    elif isinstance(value, Mapping):
        copy = {printable(key): printable(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        copy = type(value)(map(printable, value))
    return cast(T, copy)


def named(items: Sequence[str]) -> str:
    """Join the first few items into one string, followed by the number of items that were left out."""
    more = len(items) - _NAMED
    return "; ".join(items[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def counted(count: int, one: str, several: str) -> str:
    """Return a number, followed by the noun in the singular or the plural, such as "1 picture is"."""
    return f"{count:,} {one if count == 1 else several}"
