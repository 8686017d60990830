"""Every option and variable of every command, from click's own declarations."""

from pathlib import Path
from typing import Any

import click

from hangtag.cli import SUBCOMMANDS, main
from studies.sections import table

HEAD = ("option", "variable", "default", "meaning")


def section(_root: Path) -> str:
    """A table for each command. Needs all that the commands import, torch included."""
    context = click.Context(main, info_name="hangtag", auto_envvar_prefix="HANGTAG")
    parts = []
    for name, entry in SUBCOMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        parts += described(f"hangtag {name}", entry.summary, command)
    return "\n\n".join(parts)


def described(path: str, summary: str, command: click.Command) -> list[str]:
    """A heading, a sentence and a table for a command, and for those below it where it is a group."""
    rows = [row for parameter in command.params if (row := _row(path, parameter))]
    own = [f"### {path}\n\n{summary}\n\n{table(HEAD, rows)}"] if rows or not isinstance(command, click.Group) else []
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return own + [
        part for name, each in below for part in described(f"{path} {name}", each.get_short_help_str(100), each)
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
    told = option.to_info_dict()["default"]
    if told in (None, "", (), []) or not isinstance(told, str | int | float | tuple | list | Path):
        return ""
    if isinstance(told, bool):
        return "on" if told else "off"
    if isinstance(told, tuple | list):
        return f"`{','.join(map(str, told))}`"
    return f"`{told:g}`" if isinstance(told, float) else f"`{told}`"


def _help(option: click.Option) -> str:
    choices = f" ({', '.join(map(str, option.type.choices))})" if isinstance(option.type, click.Choice) else ""
    return f"{' '.join((option.help or '').split())}{choices}"
