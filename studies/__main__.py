"""The command `python -m studies`: it lists the experiments, runs them, and writes their pages."""

from collections.abc import Iterable
from importlib import import_module

import click

from hangtag.training.errors import TrainingError
from studies import catalog
from studies.catalog import EXPERIMENTS, Experiment
from studies.page import Part
from studies.pictures import FOLDER, Picture


class ExperimentGroup(click.Group):
    """The commands of one experiment. Their modules are imported when they are used."""

    def __init__(self, name: str, experiment: Experiment) -> None:
        pages = ", ".join(experiment.pages) or "none"
        text = f"{experiment.question}\n\nCost of a run: {experiment.cost}.\n\nPages: {pages}."
        super().__init__(name, help=text, short_help=experiment.question, no_args_is_help=True)
        self.experiment = experiment

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except TrainingError as error:
            raise click.ClickException(str(error)) from error

    def list_commands(self, _context: click.Context) -> list[str]:
        return [*self.experiment.commands, *(["report"] if self.experiment.report else [])]

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name == "report" and self.experiment.report:
            return click.Command(
                "report",
                callback=lambda: write(self.experiment.parts(), self.experiment.pictures()),
                help="Write the pages and pictures from recorded results.\n\nMeasures nothing.",
            )
        if name not in self.experiment.commands:
            return None
        module, attribute = self.experiment.commands[name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Run an experiment, or write the pages from recorded results.

    \b
    python -m studies                            list the experiments
    python -m studies accuracy run --dry-run     print the commands of an experiment
    python -m studies accuracy run               run it; its results.jsonl is updated
    python -m studies accuracy report            write its pages
    python -m studies report                     write all pages (make docs)
    """
    if context.invoked_subcommand is None:
        for name, experiment in EXPERIMENTS.items():
            click.echo(f"{click.style(name, bold=True)}: {experiment.question}")
            click.echo(f"    commands: {', '.join(ExperimentGroup(name, experiment).list_commands(context))}")
            click.echo(f"    a run takes {experiment.cost}")
            click.echo(f"    pages: {', '.join(experiment.pages) or 'none'}")
        click.echo("\nHow to run one: python -m studies --help")


@main.command()
def report() -> None:
    """Write all pages and pictures from recorded results.

    Measures nothing.
    """
    write(catalog.parts(), catalog.pictures())


def write(parts: Iterable[Part], pictures: Iterable[Picture]) -> None:
    """Raises click.ClickException where results are missing or malformed."""
    for part in parts:
        part.write()
        click.echo(f"wrote {part}")
    for picture in pictures:
        picture.write()
        click.echo(f"drew {(FOLDER / picture.file).name}")


for _name, _experiment in EXPERIMENTS.items():
    main.add_command(ExperimentGroup(_name, _experiment))

if __name__ == "__main__":
    main(prog_name="python -m studies")
