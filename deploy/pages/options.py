"""Every option and variable of the commands that serve and call, from click's own declarations."""

from pathlib import Path
from typing import Any

import click

from deploy.pages.sections import table
from hangtag.cli import SUBCOMMANDS, main

HEAD = ("option", "variable", "default", "meaning")


def section(_root: Path) -> str:
    """A table for each command that needs no torch."""
    context = click.Context(main, info_name="hangtag", auto_envvar_prefix="HANGTAG")
    parts = []
    for name, entry in SUBCOMMANDS.items():
        if entry.extra == "train" or name == "evaluate":
            continue
        command = main.get_command(context, name)
        assert command is not None
        described = [row for parameter in command.params if (row := _row(name, parameter))]
        parts.append(f"### hangtag {name}\n\n{entry.summary}\n\n{table(HEAD, described)}")
    return "\n\n".join(parts)


def _row(command: str, parameter: click.Parameter) -> tuple[str, ...] | None:
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return None
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    variables = [*_declared(parameter.envvar), f"HANGTAG_{command.upper()}_{str(parameter.name).upper()}"]
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
