"""Defines command-line options that several commands share."""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hangtag.settings import Rules, declared_settings, flag_of, setting, type_of

F = TypeVar("F", bound=Callable[..., Any])
AN_EXISTING_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


class _Folder(click.Path):
    """A local folder. The error about a URL does not quote the URL, which may contain a password."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail("expected a folder, not the URL of a store: 'hangtag models pull' fills a folder", param, ctx)
        return super().convert(value, param, ctx)


A_FOLDER = _Folder(file_okay=False, path_type=Path)


class FiniteRange(click.FloatRange):
    """A range of floats that refuses NaN and infinity, which click's range accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Duration(FiniteRange):
    """A duration in seconds, written as 2, 2s, 500ms, 50us or 1m."""

    name = "duration"
    # "s" comes after "ms" and "us", which also end with "s".
    _UNITS = {"ms": 1e-3, "us": 1e-6, "s": 1.0, "m": 60.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = next((unit for unit in self._UNITS if text.endswith(unit)), "")
        try:
            seconds = float(text.removesuffix(unit)) * self._UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 2s or 500ms", param, ctx)
        return super().convert(seconds, param, ctx)


def options_of(settings: type[Any], *left_out: str, **kinds: click.ParamType[Any]) -> Callable[[F], F]:
    """Add an option to a command for each field that a dataclass declares with ``setting``, except for the fields in
    ``left_out``. Each option's value is passed to the command as an argument with the field's name. ``kinds`` gives the
    click types of those fields whose declaration has no place for one.
    """

    def decorated(command: F) -> F:
        for declared, rules in reversed(declared_settings(settings)):
            if declared.name in left_out:
                continue
            default, is_flag = declared.default, declared.type is bool
            given = f"{default:g}s" if rules.duration and isinstance(default, float) else default
            command = click.option(
                flag_of(declared),
                declared.name,
                type=click.BOOL if is_flag else kinds.get(declared.name) or _kind_of(type_of(declared), rules),
                # if this is False, click mistakes a value that begins with a hyphen for an option
                is_flag=is_flag or None,
                multiple=isinstance(default, tuple) and not rules.listed,
                show_default=not is_flag and default not in (None, MISSING, ""),
                help=rules.about,
                metavar=rules.metavar,
                envvar=rules.envvar,
                **({"required": True} if default is MISSING else {"default": given}),
            )(command)
        return command

    return decorated


def _kind_of(kind: Any, rules: Rules) -> click.ParamType[Any]:
    if rules.kind is not None or rules.choices:
        return rules.kind or click.Choice(rules.choices)
    if rules.duration:
        return Duration(min=0)
    if kind in (int, float):
        if rules.listed:
            return click.types.FuncParamType(_numbers(kind))
        if rules.between == (None, None):
            return click.INT if kind is int else click.FLOAT
        return (click.IntRange if kind is int else FiniteRange)(*rules.between)
    return click.Path(dir_okay=rules.folder, path_type=Path) if kind is Path else click.STRING


def _numbers(number: type[int] | type[float]) -> Callable[[Any], tuple[float, ...]]:
    """Return a function that reads numbers separated by commas, such as 1,8,64."""

    def numbers(value: Any) -> tuple[float, ...]:
        try:
            return value if isinstance(value, tuple) else tuple(map(number, value.split(",")))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,8,64") from error

    return numbers


def repository(value: str | Path) -> Path | str:
    """Return the folder of a model repository as a Path, or the URL of an object store as a str."""
    return value if isinstance(value, str) and "://" in value else Path(value)


def models_option(about: str, parameter: str = "models", *, store: bool = False) -> Callable[[F], F]:
    """Add ``--models``, a model repository, which HANGTAG_MODELS sets for all commands. If ``store`` is true, the value
    may also be a URL."""
    return click.option(
        "--models",
        parameter,
        type=repository if store else A_FOLDER,
        default=Path("models"),
        envvar="HANGTAG_MODELS",
        show_default=True,
        help=about,
    )


runs_option = click.option(
    "--runs",
    type=A_FOLDER,
    default=Path("runs"),
    show_default=True,
    help="The folder in which to look for RUN if RUN is a name.",
)
json_flag = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for a program.")


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """The options that choose labelled pictures, for commands that run models on them."""

    samples: str | None = setting(
        None,
        "Labelled pictures: an .npz file with the arrays images and labels, a folder with one subfolder per label, a "
        "CSV file with the columns path and label, or IDX files. If the pictures are split, only the test split is "
        "used.  [default: the data set on which the model was trained]",
        metavar="FILE.npz|folder:PICTURES|csv:FILE|idx:FOLDER",
    )
    limit: int | None = setting(
        None,
        "For a quick trial, use only N images: the first N of a built-in data set, or every k-th picture of your own.",
        between=(1, None),
    )
    data_dir: Path | None = setting(
        None, "The folder of the data set or of your own pictures, if hangtag does not find it.", folder=True
    )


def json_option(about: str, kind: click.ParamType[Any] = click.STRING) -> Callable[[F], F]:
    """Add ``--json``, which prints JSON, and ``--json=FILE``, which writes JSON to a file.

    The command's parameter is ``json_file``, with "-" for standard output. ``about`` says what the JSON contains.
    """
    help_text = f"Print {about} as JSON, and nothing else. --json=FILE writes a file."
    return click.option("--json", "json_file", is_flag=False, flag_value="-", metavar="", type=kind, help=help_text)


class JsonCommand(click.Command):
    """A command with ``json_option``. For one release it also accepts 0.2.1's ``--json FILE``, with a warning."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--json" in args[:-1]:
            at = args.index("--json")
            word = args[at + 1]
            # In `loadtest compare --json A.json B.json`, A.json is an argument, because the command needs two files.
            _, too_many, _ = self.make_parser(ctx).parse_args([*args[:at], *args[at + 1 :]])
            is_needed = not too_many and all(argument.nargs == 1 for argument in self.params)
            is_file = word == "-" or (word.endswith(".json") and not word.startswith("-") and not is_needed)
            form = "--json=-" if word == "-" or not is_file else f"--json={word}"
            if is_file:
                click.echo(f"Warning: '--json {word}' will be removed in the next release: write {form}.", err=True)
            if is_file or not word.startswith("-"):  # click would take the next argument as the file's name
                args = [*args[:at], form, *args[at + 1 + is_file :]]
        return super().parse_args(ctx, args)


def refuse(*names: str, because: str) -> None:
    """Raise UsageError if the command line sets one of these parameters, which would have no effect.

    Environment variables are ignored, because they may be meant for another call. ``because`` ends the message.
    """
    context = click.get_current_context()
    flags = {option.name: max(option.opts, key=len) for option in context.command.params}
    unused = [flags[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if unused:
        raise click.UsageError(f"{' and '.join(unused)}: {because}")
