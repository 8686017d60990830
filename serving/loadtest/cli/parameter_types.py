"""Option types that click does not have."""

from typing import Any

import click


class SamplesPath(click.Path):
    """A path, or folder:PATH as the other commands name samples."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value.removeprefix("folder:") if isinstance(value, str) else value, param, ctx)


class NumberList(click.ParamType[Any]):
    """Numbers separated by commas: 1,8,64."""

    name = "list"

    def __init__(self, number: type[int] | type[float]) -> None:
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._number(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,8,64", param, ctx)


class DurationParameter(click.ParamType[float]):
    """A duration, as 2, 2s, 500ms, 50us or 1m, to seconds. Without a unit it is seconds."""

    name = "duration"
    # "s" is last but one because the units before it end with it too.
    _UNITS = {"ms": 1e-3, "us": 1e-6, "s": 1.0, "m": 60.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = next((unit for unit in self._UNITS if text.endswith(unit)), "")
        try:
            return float(text.removesuffix(unit)) * self._UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 2s or 500ms", param, ctx)
