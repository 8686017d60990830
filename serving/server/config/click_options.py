"""Makes the options of ``hangtag serve`` from the declarations of ServerConfig."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hangtag.serving.server.config.checks import Check, Choice, FilePath, ModelLimit, SecondsRange, Switch, WholeNumber
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.setting import check_of, declared_settings

F = TypeVar("F", bound=Callable[..., Any])

_COMMON_VARIABLES = {"models": "HANGTAG_MODELS"}
"""A variable for all commands, beside the command's own. Not the client's HANGTAG_TLS_CERT: that is another file."""


def server_options(command: F) -> F:
    """Give a click command one option per setting of ServerConfig; it receives them as keyword arguments."""
    for declared in reversed(declared_settings(ServerConfig)):
        check = check_of(declared)
        add_option = click.option(
            f"--{declared.name.replace('_', '-')}",
            type=click.BOOL if isinstance(check, Switch) else _option_type(check),
            is_flag=isinstance(check, Switch),
            default=declared.default,
            multiple=isinstance(declared.default, tuple),
            metavar="NAME=N" if isinstance(check, ModelLimit) else None,
            envvar=_COMMON_VARIABLES.get(declared.name),
            help=declared.metadata["help"],
            show_default=True,
            show_envvar=True,
        )
        command = add_option(command)
    return command


class _Checked(click.ParamType[Any]):
    """Converts and judges by the setting's check, so that click refuses a value in the words of every other way."""

    name = "text"
    check: Check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        converted = self.check.read(value) if isinstance(value, str) else value
        problem = self.check.problem(converted)
        return self.fail(problem, param, ctx) if problem else converted


# Each inherits from click's own type what --help and the shell's completion show.
class _WholeNumberOption(_Checked, click.IntRange):
    name = "integer range"


class _SecondsOption(_Checked, click.FloatRange):
    name = "float range"


class _ChoiceOption(_Checked, click.Choice[str]):
    name = "choice"


class _PathOption(_Checked, click.Path):
    name = "path"


def _option_type(check: Check) -> click.ParamType[Any]:
    option: _Checked
    match check:
        case WholeNumber(least, most):
            option = _WholeNumberOption(least, most)
        case SecondsRange(least, most):
            option = _SecondsOption(least, most)
        case Choice(words):
            option = _ChoiceOption(words)
        case FilePath(folder):
            option = _PathOption(dir_okay=folder, path_type=Path)
        case _:
            option = _Checked()
    option.check = check
    return option
