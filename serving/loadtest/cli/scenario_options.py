"""Builds the options for a scenario's settings from the fields of Scenario, and a Scenario from the options' values."""

import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hangtag.serving.loadtest.cli.parameter_types import Duration, NumberList
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


def _option(setting: "Field[Any]") -> Callable[[_Command], _Command]:
    help_text, show_default = setting.metadata["help"], setting.default not in ((), None, False)
    if setting.metadata["unit"] and show_default:  # click would show the number without its unit
        help_text += f"  [default: {setting.default:g} {setting.metadata['unit']}]"
        show_default = False
    return click.option(
        f"--{setting.name.replace('_', '-')}",
        type=_parameter_type(setting),
        is_flag=_HINTS[setting.name] is bool,
        default=setting.default,
        show_default=show_default,
        help=help_text,
    )


def _parameter_type(setting: "Field[Any]") -> Any:
    hint = _HINTS[setting.name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    if setting.metadata["unit"] == "s":
        return Duration()
    if typing.get_origin(hint) is tuple:
        return NumberList(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    return hint
