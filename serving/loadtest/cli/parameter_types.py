"""What the options of the load test's commands take."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from hangtag.serving.loadtest.plan.scenario import Scenario

_Command = TypeVar("_Command", bound=Callable[..., Any])
DEFAULTS = {field.name: field.default for field in fields(Scenario)}


class CommaList(click.ParamType[Any]):
    """Numbers of one type, separated by commas: 1,8,64."""

    name = "list"

    def __init__(self, of: type[int] | type[float]) -> None:
        self._of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._of(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,8,64", param, ctx)


class Seconds(click.ParamType[float]):
    """A duration: 2, 2s, 500ms, 50us, 1m. Seconds where there is no unit."""

    name = "duration"
    # "s" ends others too: it comes after them.
    _UNITS = {"ms": 1e-3, "us": 1e-6, "s": 1.0, "m": 60.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = next((unit for unit in self._UNITS if text.endswith(unit)), "")
        try:
            return float(text.removesuffix(unit)) * self._UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 2s or 500ms", param, ctx)


def setting(
    flag: str, help_text: str, type: click.ParamType[Any] | None = None, **more: Any
) -> Callable[[_Command], _Command]:
    """An option of the scenario's field of the same name, with the field's default."""
    default = DEFAULTS[flag.removeprefix("--").replace("-", "_")]
    shown: str | bool = default not in ((), None, False)
    if isinstance(type, Seconds) and default is not None:
        shown = f"{default:g} s"
    return click.option(flag, type=type, default=default, show_default=shown, help=help_text, **more)


def output(flag: str, name: str, help_text: str) -> Callable[[_Command], _Command]:
    """An option that names a file to write."""
    return click.option(flag, name, type=click.Path(dir_okay=False, path_type=Path), help=help_text)
