"""The command `python -m studies` lists the experiments, runs them, and writes their pages."""

from collections.abc import Iterable

import click

from hangtag.errors import UserError
from studies import catalog
from studies.catalog import EXPERIMENTS, Experiment
from studies.page import Part
from studies.pictures import Picture


class ExperimentGroup(click.Group):
    """The commands of an experiment. A command's module is imported only when the command is used."""

    def __init__(self, name: str, experiment: Experiment) -> None:
        text = f"{experiment.question}\n\nCost of a run: {experiment.cost}."
        super().__init__(name, help=text, short_help=experiment.question, no_args_is_help=True)
        self.experiment = experiment

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except UserError as error:
            raise click.ClickException(str(error)) from error

    def list_commands(self, _context: click.Context) -> list[str]:
        return ["run"] * bool(self.experiment.run) + ["report"] * bool(self.experiment.report)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        if name == "run":
            return self.experiment.command()
        return click.Command(
            "report",
            callback=lambda: write(self.experiment.parts(), self.experiment.pictures()),
            help="Write the pages and pictures from recorded results.\n\nThe command measures nothing.",
        )


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Run an experiment, or write the pages from recorded results.

    \b
    python -m studies                            list the experiments
    python -m studies server run                 run the experiment "server", and update its results file
    python -m studies server report              write the pages of "server"
    python -m studies report                     write all pages (make docs)
    """
    if context.invoked_subcommand is None:
        for name, experiment in EXPERIMENTS.items():
            click.echo(f"{click.style(name, bold=True)}: {experiment.question}\n    a run takes {experiment.cost}")
        click.echo("\nHow to run an experiment: python -m studies --help")


@main.command()
def report() -> None:
    """Write all pages and pictures from recorded results.

    The command measures nothing.
    """
    write(catalog.parts(), catalog.pictures())


def write(parts: Iterable[Part], pictures: Iterable[Picture]) -> None:
    """Write parts of pages and draw pictures."""
    for part in parts:
        part.write()
        click.echo(f"wrote {part}")
    for picture in pictures:
        picture.write()
        click.echo(f"drew {picture}")


for _name, _experiment in EXPERIMENTS.items():
    main.add_command(ExperimentGroup(_name, _experiment))

if __name__ == "__main__":
    main(prog_name="python -m studies")
