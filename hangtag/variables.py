"""The environment variables of the command's options: their names, and a warning about variables that set nothing."""

import difflib
import os
from collections.abc import Iterator, Mapping

import click


def name_variables(command: click.Command, prefix: str) -> None:
    """Name each option's environment variable after the command and the flag: HANGTAG_HEALTH_SERVER for --server.

    click would name it after the Python parameter (as_json for --json). And click would prefer the variable that an
    option declares for all commands (HANGTAG_SERVER), but the command's own variable must override that.
    """
    for option in command.params:
        if isinstance(option, click.Option) and option.allow_from_autoenv:
            option.allow_from_autoenv = False
            flag = max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
            common = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
            option.envvar = [f"{prefix}_{flag}", *common]
    for name, subcommand in subcommands(command).items():
        name_variables(subcommand, f"{prefix}_{name.upper().replace('-', '_')}")


def subcommands(command: click.Command) -> Mapping[str, click.Command]:
    """Return the commands of a group, or of `hangtag loadtest`, which is a command and has a subcommand too."""
    found: Mapping[str, click.Command] = getattr(command, "commands", {})
    return found


def warn_about_unknown(command: click.Command, prefix: str) -> None:
    """Write a line to standard error for each variable that has the command's prefix but that no option reads.

    Such a variable is misspelt, or belongs to an option of another release: without the line, a server would run
    without the setting and nobody would know. This is not an error, because Kubernetes sets variables for each Service,
    such as HANGTAG_SERVE_SERVICE_HOST for a Service named hangtag-serve.
    """
    known = {name.removeprefix(f"{prefix}_"): name for name in _variables(command)}
    for name in sorted(os.environ):
        if name.startswith(f"{prefix}_") and name not in known.values():
            near = difflib.get_close_matches(name.removeprefix(f"{prefix}_"), known, n=1, cutoff=0.75)
            hint = f"did you mean {known[near[0]]}?" if near else "see --help; docs/how-to/upgrade.md has old names."
            click.echo(f"Warning: the variable {name} sets no option of this command: {hint}", err=True)


def _variables(command: click.Command) -> Iterator[str]:
    for option in command.params:
        yield from [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
    for subcommand in subcommands(command).values():
        yield from _variables(subcommand)
