"""Measures the agreement of three load generators, and the speed of the ways to make calls from Python."""

import click

from studies.loadtest import agreement, generators


@click.command()
@click.pass_context
def main(context: click.Context) -> None:
    """Measure agreement and generators with every choice of their options, on a machine that does nothing else."""
    for server in ("null", "lstm"):
        context.invoke(generators.main, server=server)
    for place in ("together", "apart"):
        context.invoke(agreement.main, place=place)
