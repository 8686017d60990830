"""Makes tables of every option and environment variable of every command, from click's declarations."""

from pathlib import Path
from typing import Any

import click

from hangtag.cli import SUBCOMMANDS, main
from hangtag.variables import subcommands
from studies.page import table

HEAD = ("option", "variable", "default", "meaning")


def part() -> str:
    """A table for each command. Imports all that the commands need, torch included."""
    context = click.Context(main, info_name="hangtag", auto_envvar_prefix="HANGTAG")
    parts = ["Made by `make docs` from the declarations of the command's options."]
    for name, entry in SUBCOMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        parts += described(f"hangtag {name}", entry.summary, command)
    return "\n\n".join(parts)


def described(path: str, summary: str, command: click.Command) -> list[str]:
    """A heading, a sentence and a table for a command, and for each of its subcommands."""
    rows = [row for parameter in command.params if (row := _row(path, parameter))]
    tables = [f"### {path}\n\n{summary}\n\n{table(HEAD, rows)}"] if rows or not isinstance(command, click.Group) else []
    return tables + [
        part
        for name, each in subcommands(command).items()
        for part in described(f"{path} {name}", each.get_short_help_str(100), each)
    ]


def _row(path: str, parameter: click.Parameter) -> tuple[str, ...] | None:
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return None
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    variables = _declared(parameter.envvar)
    if parameter.allow_from_autoenv:
        variables.append("_".join((*path.split(), str(parameter.name))).replace("-", "_").upper())
    return flags, ", ".join(f"`{variable}`" for variable in variables), _default(parameter), _help(parameter)


def _declared(variable: Any) -> list[str]:
    return [] if variable is None else [variable] if isinstance(variable, str) else list(variable)


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.to_info_dict()["default"]
    if default in (None, "", (), []) or not isinstance(default, str | int | float | tuple | list | Path):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple | list):
        return f"`{','.join(map(str, default))}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _help(option: click.Option) -> str:
    choices = f" ({', '.join(map(str, option.type.choices))})" if isinstance(option.type, click.Choice) else ""
    return f"{' '.join((option.help or '').split())}{choices}"
