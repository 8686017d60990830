"""The training runs of an experiment: `hangtag train` as a subprocess for each, and a results line of each outcome."""

import fnmatch
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from hangtag.training.runs.run import Run
from studies import results

RUNS = Path("runs")


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Args:
        name: Its folder under runs/, and its name in the results file.
        arguments: Of `hangtag train`, beginning with the network.
        group: The part of the page that shows it.
        next_step: A `hangtag` command to run after the training, such as an export.
        next_file: The file that shows that the next step has been done.
    """

    name: str
    arguments: tuple[str, ...]
    group: str = ""
    next_step: tuple[str, ...] = ()
    next_file: Path | None = None

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    def commands(self, options: Sequence[str] = ()) -> list[list[str]]:
        """The hangtag commands of this run, without the next step where its file exists."""
        commands = [["train", *self.arguments, "--out", str(self.folder), *options]]
        if self.next_step and not (self.next_file and self.next_file.exists()):
            commands.append(list(self.next_step))
        return commands


MakeLine = Callable[[TrainingRun, Run], results.Line]


def command(runs: Sequence[TrainingRun], make_line: MakeLine, file: Path, help_text: str) -> click.Command:
    """The click command that trains runs and records a line of each. make_line: a finished run's results line."""

    @click.command(help=help_text, context_settings={"ignore_unknown_options": True})
    @click.option("--only", default="*", show_default=True, help="Runs whose names fit this pattern, as lstm-*-seed0.")
    @click.option("--dry-run", is_flag=True, help="Print the commands and run none.")
    @click.option("--out", type=click.Path(path_type=Path), default=file, help="The results file to write lines into.")
    @click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRAIN_OPTIONS]")
    def run(only: str, dry_run: bool, out: Path, options: tuple[str, ...]) -> None:
        train(select(runs, only), make_line, file, out, options, dry_run=dry_run)

    return run


def select(runs: Iterable[TrainingRun], pattern: str) -> list[TrainingRun]:
    """The runs whose names fit a shell pattern. Raises click.ClickException where none does."""
    names = [run.name for run in runs]
    chosen = [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]
    if not chosen:
        raise click.ClickException(f"no run's name fits {pattern!r}; the runs are {', '.join(names)}.")
    return chosen


def train(
    runs: Iterable[TrainingRun],
    make_line: MakeLine,
    page: Path,
    out: Path,
    options: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> None:
    """Train each run, or continue it where it stopped, and record its line. Prints every command before it runs.

    Args:
        runs: The runs.
        make_line: A finished run's results line.
        page: The results file of which a page is made.
        out: The results file to write lines into.
        options: Further options of `hangtag train`.
        dry_run: Print the commands and run none.

    Raises:
        click.ClickException: a command failed.
        TrainingError: a run is not finished.
    """
    for run in runs:
        for arguments in run.commands(options):
            hangtag(arguments, dry_run=dry_run)
        if not dry_run:
            record(run, make_line, page, out)


def record(run: TrainingRun, make_line: MakeLine, page: Path, out: Path) -> None:
    """Write a finished run's line. One that was trained on a part of the data goes into another file than the page's.

    Raises:
        TrainingError: the folder is no run's, or the run is not finished.
    """
    trained = Run(run.folder)
    trained.require_finished()
    if out == page and trained.read_config()["limit"] is not None:
        click.echo(
            f"{run.name} is not recorded: it was trained on a part of the data (--limit). --out FILE records it."
        )
        return
    results.record(out, {"run": run.name} | make_line(run, trained))
    click.echo(f"recorded {run.name} in {out}")


def hangtag(arguments: Sequence[str], *, dry_run: bool = False) -> None:
    """Run a hangtag command with this interpreter. Raises click.ClickException where it fails."""
    click.echo(f"hangtag {shlex.join(arguments)}")
    if not dry_run and (status := subprocess.run([sys.executable, "-m", "hangtag", *arguments]).returncode):
        raise click.ClickException(f"hangtag {arguments[0]} ended with status {status}.")
