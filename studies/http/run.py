"""Measures requests over HTTP on this server, FastAPI and Triton, and calls over gRPC, which take turns."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from hangtag.serving.loadtest.machine.other_programs import other_programs
from studies import options, results
from studies.http.report import LOADS, RESULTS, tables
from studies.http.systems import MODEL, SYSTEMS, launches, requests
from studies.server import h2load
from studies.server.comparison import measure_rounds, print_tables, progress_bar, versions
from studies.server.h2load import Load, Outcome
from studies.server.process import Served, served
from studies.server.scenarios import Figures, closed_loop

PACKAGES = ("uvicorn", "starlette", "pygrpc-native", "onnxruntime", "numpy")
_WARM_UP = 200


@click.command()
@click.option("--only", type=options.Names(SYSTEMS), default=",".join(SYSTEMS), show_default=True, help="The systems.")
@options.ROUNDS
@options.SECONDS
@options.MODELS
@options.OUT
def main(only: tuple[str, ...], rounds: int, seconds: float, models: Path, out: Path | None) -> None:
    """Compare the ways into a server on a machine that does nothing else, with lstm and one image a request.

    Needs h2load (Debian: nghttp2-client), for FastAPI 'make fastapi', and for Triton 'make triton'. The load
    generator shares the server's processors.
    """
    out = out or (RESULTS if set(only) == set(SYSTEMS) else None)
    console = Console(stderr=True)
    command = f"python -m studies http run --rounds {rounds} --seconds {seconds:g}"
    command += "" if set(only) == set(SYSTEMS) else f" --only {','.join(only)}"
    conditions = results.conditions(command, versions(PACKAGES))
    with ExitStack() as stack:
        starts = launches(only, models, stack)
        servers = {name: stack.enter_context(served(launch)) for name, launch in starts.items()}
        progress = stack.enter_context(progress_bar(console))
        task = progress.add_task("", total=rounds * len(LOADS) * len(servers))

        def advance(description: str) -> None:
            progress.update(task, description=description)
            progress.advance(task)

        lines = measure_rounds(
            rounds, lambda number: _round(number, servers, seconds, advance), conditions, out, console
        )
    print_tables(tables, lines, out)


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
