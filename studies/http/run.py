"""Measures requests over HTTP on this server, FastAPI and Triton, and calls over gRPC, which take turns."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hangtag.serving.loadtest.machine.other_programs import other_programs
from studies import results
from studies.http.report import LOADS, RESULTS, tables
from studies.http.systems import MODEL, SYSTEMS, launches, requests
from studies.server import h2load
from studies.server.h2load import Load, Outcome
from studies.server.process import Served, served
from studies.server.report import BUSY
from studies.server.run import WIDTH, names_option, versions
from studies.server.scenarios import Figures, closed_loop

PACKAGES = ("uvicorn", "starlette", "pygrpc-native", "onnxruntime", "numpy")
_WARM_UP = 200


@click.command()
@click.option(
    "--only", callback=names_option(lambda: tuple(SYSTEMS)), help=f"The systems: {','.join(SYSTEMS)}; default all."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each system.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.05),
    default=3.0,
    show_default=True,
    help="Duration of each load, approximately.",
)
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The results file. [default: the page's, if all systems are measured]",
)
def main(only: tuple[str, ...], rounds: int, seconds: float, models: Path, out: Path | None) -> None:
    """Compare the ways into a server on a machine that does nothing else, with lstm and one image a request.

    Needs h2load (Debian: nghttp2-client), for FastAPI 'make fastapi', and for Triton 'make triton'. The load
    generator shares the server's processors.
    """
    out = out or (RESULTS if set(only) == set(SYSTEMS) else None)
    console = Console(stderr=True)
    command = f"python -m studies http run --rounds {rounds} --seconds {seconds:g}"
    command += "" if set(only) == set(SYSTEMS) else f" --only {','.join(only)}"
    lines = [results.conditions(command, versions(PACKAGES))]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        starts = launches(only, models, stack)
        started = {
            id(launch): stack.enter_context(served(launch))
            for launch in {id(launch): launch for launch in starts.values()}.values()
        }
        servers = {name: started[id(launch)] for name, launch in starts.items()}
        progress = stack.enter_context(Progress(*columns, console=console))
        task = progress.add_task("", total=rounds * len(LOADS) * len(servers))

        def advance(description: str) -> None:
            progress.update(task, description=description)
            progress.advance(task)

        for number in range(1, rounds + 1):
            line = _round(number, servers, seconds, advance)
            lines.append({"run": f"round {number}"} | line)
            if line["others"] > BUSY:
                console.print(f"[yellow]other programs took {line['others']:.0%} of the processors' time")
            if out:
                results.write(out, lines)  # What is measured is kept if a later round fails.
    screen = Console()
    screen.width = max(screen.width, WIDTH)
    for table in tables({"conditions": lines[0], "rounds": lines[1:]}):
        screen.print(table)
    click.echo(f"wrote {out}" if out else "wrote nothing: name a file with --out")


def _round(number: int, servers: Mapping[str, Served], seconds: float, advance: Callable[[str], None]) -> results.Line:
    """Every load on every system in turn: system -> model -> load -> figures, and the CPUs' share that others took."""
    order = list(servers)
    order = order[number % len(order) :] + order[: number % len(order)]
    line: results.Line = {name: {MODEL: {}} for name in servers}
    with other_programs() as others:
        for load in LOADS:
            for name in order:
                line[name][MODEL][load] = _measure(name, servers[name], closed_loop(load), seconds)
                advance(f"{LOADS[load]}: {name}")
    return line | {"others": others.share or 0.0}


def _measure(name: str, server: Served, shape: Load, seconds: float) -> Figures:
    """Calls a second, latency and processors used. ``shape``: without its calls."""
    put = _over_grpc(server) if name.startswith("grpc") else requests(name, server).put
    if not name.startswith("grpc"):
        shape = replace(shape, clients=shape.clients * shape.streams, streams=1)
    per_second = put(replace(shape, calls=_WARM_UP)).per_second
    load = replace(shape, calls=max(_WARM_UP, round(per_second * seconds)))
    cpu = server.cpu_seconds()
    outcome = put(load)
    return {
        "samples_per_s": outcome.per_second,
        "p50_ms": outcome.p50_ms,
        "p99_ms": outcome.percentile_ms(99),
        "cpus": (server.cpu_seconds() - cpu) * outcome.per_second / load.calls,
    }


def _over_grpc(server: Served) -> Callable[[Load], Outcome]:
    return lambda load: h2load.run(server.url, MODEL, load)
