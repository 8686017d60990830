"""Declares settings of commands, servers and load tests as dataclass fields with a type, a default and rules.

``hangtag.options.options_of`` turns these fields into a command's options. This module does not import click, because
programs that have no command line also create the settings of servers and of load tests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a setting is parsed, checked and described, in addition to its field's type and default."""

    about: str  # the help text
    flag: str | None = None  # the option's name; if None, the field's name, with hyphens for underscores
    between: tuple[Any, Any] = (None, None)  # the valid numbers, which the help shows; None for no limit
    above: float | None = None  # an exclusive lower bound; click does not check this bound, but `problems` does
    choices: Sequence[str] = ()  # the valid texts; if empty, any text is valid
    duration: bool = False  # whether the value is a number of seconds that may be written with a unit, such as 500ms
    listed: bool = False  # whether one option gives all numbers of a tuple; otherwise the option is repeated
    folder: bool = False  # whether the path of a folder is valid
    kind: Any = None  # the option's click type, if it does not follow from the field's type
    metavar: str | None = None  # the placeholder for the value in the help
    envvar: str | None = None  # a variable that sets the option for all commands, in addition to the command's own


def setting(default: Any, about: str, **rules: Any) -> Any:
    """Declare a field of a settings dataclass, with the attributes of `Rules`. The option has the type of the field. If
    the default is a tuple, the option can be repeated, and if it is dataclasses.MISSING, the option must be given.

    Example:
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     epochs: int = setting(10, "How often each image is seen.", between=(1, None))
    """
    return field(default=default, metadata={"setting": Rules(about=about, **rules)})


def declared_settings(settings: type[Any]) -> list[tuple[Field[Any], Rules]]:
    """List the fields of a dataclass that are declared with `setting`, with their rules."""
    return [(each, each.metadata["setting"]) for each in fields(settings) if "setting" in each.metadata]


def flag_of(declared: Field[Any]) -> str:
    """Return the option that sets a field, such as --data-dir for data_dir."""
    return declared.metadata["setting"].flag or f"--{declared.name.replace('_', '-')}"


def type_of(declared: Field[Any]) -> Any:
    """Return the type of a single value, such as str for tuple[str, ...] and Path for Path | None."""
    return next((part for part in get_args(declared.type) if part is not NoneType), declared.type)


def problems(settings: Any) -> Iterator[tuple[Field[Any], str]]:
    """Yield each field with an invalid value, and a sentence such as "0 is not ..."."""
    for declared, rules in declared_settings(type(settings)):
        value = getattr(settings, declared.name)
        if value is None and declared.default is None:
            continue
        repeated = isinstance(declared.default, tuple)
        if repeated and not isinstance(value, tuple):
            yield declared, f"{value!r} is not a tuple"
            continue
        for element in value if repeated else [value]:
            if expected := _expected(declared, rules, element):
                yield declared, f"{element if isinstance(element, Path) else repr(element)} is not {expected}"


def _expected(declared: Field[Any], rules: Rules, value: Any) -> str:
    """Return "" if the value is valid, else a description of valid values that completes "X is not …"."""
    kind = type_of(declared)
    if rules.choices:
        return "" if value in rules.choices else "one of " + ", ".join(map(repr, rules.choices))
    if kind in (int, float):
        return "" if type(value) in (int, kind) and _is_in_range(rules, value) else _number(declared, rules)
    if kind is Path:
        is_right = isinstance(value, Path) and (rules.folder or not value.is_dir())
        return "" if is_right else "a path" if rules.folder else "the path of a file"
    if kind in (bool, str):
        return "" if isinstance(value, kind) else {bool: "True or False", str: "a text"}[kind]
    return ""  # the constructor of any other type checks the value


def _is_in_range(rules: Rules, value: float) -> bool:
    least, most = rules.between
    above = rules.above is None or rules.above < value
    return above and (least is None or least <= value) and (most is None or value <= most)


def _number(declared: Field[Any], rules: Rules) -> str:
    """Describe in words the numbers that are valid for a setting."""
    in_seconds = rules.duration or declared.name.endswith("_seconds")
    number = "a whole number" if type_of(declared) is int else "a number of seconds" if in_seconds else "a number"
    least, most = rules.between
    if most is not None:
        return f"{number} from {least} to {most}"
    if rules.above is not None:
        return f"{number} above {rules.above}"
    return number if least is None else f"{number} of at least {least}"
