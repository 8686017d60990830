"""The root command, which imports a subcommand only to run it, so that ``hangtag serve`` does not need torch."""

import importlib
import os
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import click
from click.exceptions import NoSuchCommand

from hangtag.extras import needs
from hangtag.output import one_line_errors
from hangtag.variables import name_variables, subcommands, warn_about_unknown


class Subcommand(NamedTuple):
    """A subcommand: its module in hangtag and its attribute there, its line in --help, and the extra that installs its
    dependencies."""

    location: str
    summary: str
    extra: str


SUBCOMMANDS = {
    "data": Subcommand("commands.data:data", "Look at pictures before training a network on them.", "cpu"),
    "train": Subcommand("training.cli:train", "Train a network on Fashion-MNIST, or on your pictures.", "train"),
    "runs": Subcommand("commands.runs:runs", "List, show and compare training runs.", "cpu"),
    "evaluate": Subcommand("commands.evaluate:evaluate", "Measure how good a run, a file or a served model is.", "cpu"),
    "export": Subcommand("export.cli:export", "Publish a trained network as an ONNX model.", "export"),
    "import": Subcommand("export.cli:import_file", "Publish any ONNX file, with preprocessing.", "export"),
    "models": Subcommand("commands.models:models", "List, show, verify, promote, load and unload models.", "cpu"),
    "route": Subcommand("commands.choose:route", "Choose the threshold of a cascade, and write its route.", "loadtest"),
    "choose": Subcommand("commands.choose:choose", "Find the best model or cascade for this machine.", "loadtest"),
    "serve": Subcommand("serving.server.cli:serve", "Serve the model repository over gRPC and HTTP.", "cpu"),
    "health": Subcommand("serving.client.health:health", "Check whether a server is ready.", "cpu"),
    "top": Subcommand("serving.client.top.top:top", "Watch a running server.", "cpu"),
    "classify": Subcommand("serving.client.classify:classify", "Classify images with a served model.", "cpu"),
    "loadtest": Subcommand(
        "serving.loadtest.cli.command:loadtest", "Compare the latency of served models.", "loadtest"
    ),
}


class _HelpFormatter(click.HelpFormatter):
    """Makes the column of option names narrower than click does, so that the descriptions need fewer lines."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 22, col_spacing: int = 2) -> None:
        super().write_dl(rows, col_max, col_spacing)


class _Context(click.Context):
    """Shortens a command's --help to two screens of 80 columns."""

    formatter_class = _HelpFormatter

    def get_help(self) -> str:
        """Return the help, which leaves out environment variables that only this command reads. The root command's
        --help says how these variables' names follow from the options."""
        for option in self.command.params:
            if isinstance(option, click.Option):
                option.show_envvar = len(option.envvar or []) > 1
        return super().get_help()


def _shorten_help(command: click.Command) -> None:
    command.context_class = _Context
    for option in command.params:
        if option.type.name in ("integer range", "float range"):
            option.metavar = option.metavar or "N"
    for subcommand in subcommands(command).values():
        _shorten_help(subcommand)


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module only to run the subcommand or to show the subcommand's help."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a subcommand. If it raises a UserError, show the error in one line and exit with code 1. After Ctrl-C,
        the exit code is 130, as shells report for a process that SIGINT ended."""
        try:
            with one_line_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            if ctx.resilient_parsing:  # click parses resiliently while a shell completes a command line
                return None
            raise NoSuchCommand(cmd_name, possibilities=SUBCOMMANDS, ctx=ctx)
        entry = SUBCOMMANDS[cmd_name]
        module_name, _, attribute = entry.location.partition(":")
        # Imported here, because the root's --help must not import any subcommand.
        from hangtag.serving.server.process import environment

        environment.prepare()
        with needs(entry.extra, f"'hangtag {cmd_name}'"):
            command: click.Command = getattr(importlib.import_module(f"hangtag.{module_name}"), attribute)
        prefix = f"HANGTAG_{cmd_name.upper()}"
        name_variables(command, prefix)
        _shorten_help(command)
        if not ctx.resilient_parsing:
            warn_about_unknown(command, prefix)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's method would import every subcommand to read its summary.
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in SUBCOMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HANGTAG", "max_content_width": 110},
)
@click.version_option(package_name="hangtag", allow_from_autoenv=False)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Train image classifiers, export them to ONNX, serve them over gRPC and HTTP, and load-test them.

    Every option can also be set by an environment variable: HANGTAG_SERVE_PORT=9000 is --port 9000 of hangtag serve.
    HANGTAG_SERVER, HANGTAG_MODELS, HANGTAG_TLS_CA, HANGTAG_TLS_CERT, HANGTAG_TLS_KEY and HANGTAG_TOKEN_FILE apply to
    every command that calls a server or uses a model repository. A command's own variable takes precedence. Only
    hangtag evaluate ignores HANGTAG_SERVER, because without --server it evaluates a run or a file.
    """
    if not os.environ.get("PYTHONSAFEPATH"):
        # Without this variable, multiprocessing's child processes import from the current folder first: a file such as
        # socket.py in this folder would replace Python's module socket.
        os.environ["PYTHONSAFEPATH"] = "1"
        ctx.call_on_close(partial(os.environ.pop, "PYTHONSAFEPATH"))
