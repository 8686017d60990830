"""Measures a cascade against its members, a split and a shadow in one interleaved run through the server."""

from pathlib import Path

import click
from rich.console import Console

from hangtag.serving.loadtest.machine.other_programs import other_programs
from hangtag.training.data.fashion_mnist import DEBIAN_DIR
from studies import options, results
from studies.results import Line
from studies.routes.goals import LOADS
from studies.routes.measurements import RouteBench
from studies.routes.report import RESULTS, tables
from studies.routes.repository import ACCURATE, FAST, repository
from studies.server.comparison import measure_rounds, print_tables, versions
from studies.server.process import hangtag_serve, served

PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy")


@click.command()
@click.option("--route", default="fast-and-accurate", show_default=True, help="The cascade that is measured.")
@options.ROUNDS
@options.SECONDS
@click.option("--calls", type=click.IntRange(100), default=100_000, show_default=True, help="Calls to the split.")
@options.MODELS
@click.option(
    "--samples",
    type=click.Path(exists=True, path_type=Path),
    default=DEBIAN_DIR,
    show_default=True,
    help="The folder of Fashion-MNIST's test images.",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
def main(route: str, rounds: int, seconds: float, calls: int, models: Path, samples: Path, out: Path) -> None:
    """Measure routes on a machine that does nothing else, over gRPC on the native transport.

    The cascade and its members take turns under each load, with the real test images and one image a call. Needs
    h2load (Debian: nghttp2-client). The load generator shares the server's processors.
    """
    console = Console(stderr=True)
    command = f"python -m studies routes run --rounds {rounds} --seconds {seconds:g} --calls {calls}"
    conditions = results.conditions(command, versions(PACKAGES)) | {"route": route}
    with repository(models, route) as folder, served(hangtag_serve(folder, "--transport", "native")) as server:
        bench = RouteBench(server, samples, seconds)

        def measure(number: int) -> Line:
            once: Line = {}
            if number == 1:
                accuracy = _named(bench.accuracy([FAST, route, ACCURATE]), route)
                once = {"accuracy": accuracy, "split": bench.split(calls)}
            with other_programs() as others:
                measured = _round(bench, route, number, console)
            return measured | once | {"others": others.share or 0.0}

        lines = measure_rounds(rounds, measure, conditions, out, console)
    print_tables(tables, lines, out)


def _round(bench: RouteBench, route: str, number: int, console: Console) -> Line:
    """Every load on the route and its members in turn, then the shadow."""
    systems = [FAST, route, ACCURATE]
    order = systems[number % 3 :] + systems[: number % 3]
    cascade: Line = {}
    for load in LOADS:
        figures = {system: bench.closed_loop(system, load) for system in order}
        cascade[str(load)] = _named(figures, route)
        rates = ", ".join(f"{system} {figures[system]['calls_per_s']:,.0f}" for system in systems)
        console.print(f"{load} in flight, calls/s: {rates}", soft_wrap=True)
    return {"cascade": cascade, "shadow": bench.shadow()}


def _named(figures: Line, route: str) -> Line:
    """The figures with the route's under the key "route", whatever its name is."""
    return {"route" if name == route else name: value for name, value in figures.items()}
