"""The command `python -m studies` lists the experiments, runs them, and writes their pages."""

import click

from hangtag.output import one_line_errors
from studies import catalog
from studies.catalog import EXPERIMENTS, Experiment


class ExperimentGroup(click.Group):
    """The command group of an experiment. Its only command, `run`, imports the experiment's module when it is used."""

    def __init__(self, name: str, experiment: Experiment) -> None:
        text = f"{experiment.question}\n\nA run takes {experiment.cost}."
        super().__init__(name, help=text, short_help=experiment.question, no_args_is_help=True)
        self.experiment = experiment

    def invoke(self, context: click.Context) -> object:
        with one_line_errors():
            return super().invoke(context)

    def list_commands(self, _context: click.Context) -> list[str]:
        return ["run"]

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        return self.experiment.command() if name == "run" else None


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Run an experiment, or write the pages from recorded results.

    \b
    python -m studies                            list the experiments
    python -m studies server run                 run the experiment "server", and update its results file
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
    for part in catalog.parts():
        part.write()
        click.echo(f"wrote {part}")
    for picture in catalog.pictures():
        picture.write()
        click.echo(f"drew {picture}")


for _name, _experiment in EXPERIMENTS.items():
    if _experiment.run:
        main.add_command(ExperimentGroup(_name, _experiment))

if __name__ == "__main__":
    main(prog_name="python -m studies")
