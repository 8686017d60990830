"""Builds the options for a scenario's settings from the fields of Scenario, and a Scenario from the options' values."""

import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hangtag.serving.loadtest.cli.parameter_types import DurationParameter, NumberList
from hangtag.serving.loadtest.plan.scenario import PRESETS, Scenario
from hangtag.serving.loadtest.plan.target import Target

_Command = TypeVar("_Command", bound=Callable[..., Any])
_HINTS = typing.get_type_hints(Scenario)


def scenario_options(command: _Command) -> _Command:
    """Give a click command an option for each setting of Scenario; it receives them under the settings' names."""
    for setting in reversed([setting for setting in fields(Scenario) if "help" in setting.metadata]):
        command = _option(setting)(command)
    return command


def scenario_from(ctx: click.Context, settings: dict[str, Any], targets: tuple[Target, ...]) -> Scenario:
    """A Scenario of the options' values.

    Where --scenario is given, its preset replaces the values that neither the command line nor a variable sets.

    Raises:
        click.UsageError: When a setting is out of range, or two settings contradict each other.
    """
    preset = PRESETS[settings["scenario"]] if settings["scenario"] else {}
    unset = {name: value for name, value in preset.items() if ctx.get_parameter_source(name) == ParameterSource.DEFAULT}
    try:
        return Scenario(targets, **(settings | unset))
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


class _Option(click.Option):
    """Shows a default that has a unit as it is; click would put it into parentheses."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


def _option(setting: "Field[Any]") -> Callable[[_Command], _Command]:
    shown: str | bool = setting.default not in ((), None, False)
    if setting.metadata["unit"] and setting.default is not None:
        shown = f"{setting.default:g} {setting.metadata['unit']}"
    return click.option(
        f"--{setting.name.replace('_', '-')}",
        cls=_Option,
        type=_parameter_type(setting),
        is_flag=_HINTS[setting.name] is bool,
        default=setting.default,
        show_default=shown,
        help=setting.metadata["help"],
    )


def _parameter_type(setting: "Field[Any]") -> Any:
    hint = _HINTS[setting.name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    if setting.metadata["unit"] == "s":
        return DurationParameter()
    if typing.get_origin(hint) is tuple:
        return NumberList(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    return hint
