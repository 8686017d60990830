"""A setting's declaration: a dataclass field with a default, a help text and a check."""

from dataclasses import Field, field, fields
from typing import Any

from hangtag.serving.server.config.checks import Check
from hangtag.serving.server.errors import StartError


def setting(default: Any, check: Check, about: str) -> Any:
    """Declare one field of a settings dataclass.

    Args:
        default: The value where none is set. A tuple makes the setting repeatable: the check holds for each element.
            None makes it optional.
        check: Which values the setting takes.
        about: The help text.
    """
    return field(default=default, metadata={"check": check, "help": about})


def check_of(declared: Field[Any]) -> Check:
    """The check that a field was declared with."""
    check: Check = declared.metadata["check"]
    return check


def declared_settings(settings: type[Any]) -> list[Field[Any]]:
    """The fields of a settings dataclass that were declared with `setting`."""
    return [declared for declared in fields(settings) if "check" in declared.metadata]


def validate(settings: Any) -> None:
    """Check every field of a settings dataclass, each by its own declaration.

    Raises:
        StartError: A value is not what its setting takes. The message names the setting and says what was expected.
    """
    for declared in declared_settings(type(settings)):
        problem = _problem(declared, getattr(settings, declared.name))
        if problem:
            raise StartError(f"{declared.name}: {problem}")


def _problem(declared: Field[Any], value: object) -> str:
    check = check_of(declared)
    if isinstance(declared.default, tuple):
        if not isinstance(value, tuple):
            return f"{value!r} is not a tuple"
        return next((problem for element in value if (problem := check.problem(element))), "")
    return "" if value is None and declared.default is None else check.problem(value)
