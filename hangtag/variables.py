"""Names the environment variables of a command's options, and warns about variables that set no option."""

import difflib
import os
from collections.abc import Iterator, Mapping

import click


def name_variables(command: click.Command, prefix: str) -> None:
    """Name each option's environment variable after the command and the flag: HANGTAG_HEALTH_SERVER for --server.

    Without this function, click would name the variable after the Python parameter (as_json for --json), and a variable
    for all commands (HANGTAG_SERVER) would override a command's own variable.
    """
    for option, own_prefix in _options(command, prefix):
        if option.allow_from_autoenv:
            option.allow_from_autoenv = False
            flag = max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
            option.envvar = [f"{own_prefix}_{flag}", *([str(option.envvar)] if option.envvar else [])]
        option.show_envvar = bool(option.envvar)  # error messages then name the variable


def subcommands(command: click.Command) -> Mapping[str, click.Command]:
    """Return the subcommands of a group, or of `hangtag loadtest`, which also runs without a subcommand."""
    found: Mapping[str, click.Command] = getattr(command, "commands", {})
    return found


def warn_about_unknown(command: click.Command, prefix: str) -> None:
    """Print a warning for each environment variable that has the command's prefix but that no option reads.

    Such a variable is misspelt, or belongs to another release. The command still runs, because Kubernetes sets
    variables for each Service, such as HANGTAG_SERVE_SERVICE_HOST for a Service named hangtag-serve.
    """
    names = [name for option, _ in _options(command, prefix) for name in option.envvar or ()]
    known = {name.removeprefix(f"{prefix}_"): name for name in names}
    for name in sorted(os.environ):
        if name.startswith(f"{prefix}_") and name not in known.values():
            near = difflib.get_close_matches(name.removeprefix(f"{prefix}_"), known, n=1, cutoff=0.75)
            hint = f"did you mean {known[near[0]]}?" if near else "see --help, or docs/how-to/upgrade.md for old names."
            click.echo(f"Warning: the variable {name} sets no option of this command: {hint}", err=True)


def _options(command: click.Command, prefix: str) -> Iterator[tuple[click.Option, str]]:
    """Yield the options of a command and of its subcommands, each with the prefix of its variable."""
    yield from ((option, prefix) for option in command.params if isinstance(option, click.Option))
    for name, subcommand in subcommands(command).items():
        yield from _options(subcommand, f"{prefix}_{name.upper().replace('-', '_')}")
