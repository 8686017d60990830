"""Compare hangtag over HTTP with FastAPI, with Triton's HTTP endpoint, and with hangtag over gRPC."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from studies import options
from studies.bench import loads, systems
from studies.bench.comparison import Comparison, Turns
from studies.bench.goals import Goal
from studies.bench.process import served
from studies.page import Part

MODEL = "lstm"
LOADS = {load: f"{load} in flight" for load in ("1", "4", "16", "64")}
"""Over HTTP, each call in flight has its own connection. Over gRPC, calls share up to 16 connections."""
_RATE = "samples_per_s"
COMPARISON = Comparison(
    "http",
    {name: system.description for name, system in systems.HTTP.items()},
    LOADS,
    (
        *(Goal(MODEL, load, _RATE, 0.9, "minimal", system="http") for load in LOADS),
        *(
            Goal(MODEL, load, _RATE, bound, "fastapi", system=system)
            for load, bound in (("64", 1.6), ("16", 1.4))
            for system in ("http", "http-2")
        ),
        Goal(MODEL, "1", "p50_ms", 1.0, "fastapi", system="http"),
        *(Goal(MODEL, load, _RATE, 1.0, "triton", system="http") for load in ("16", "64")),
    ),
    packages=("uvicorn", "starlette", "pygrpc-native", "onnxruntime", "numpy"),
)
PARTS = (
    Part("studies/bench/README.md", COMPARISON.part, "http"),
    Part("docs/explanation/performance.md", partial(COMPARISON.loads_part, without="minimal"), "http"),
)


@click.command()
@click.option("--only", type=options.Names(systems.HTTP), default=",".join(systems.HTTP), show_default=True,
              help="The systems to measure.")  # fmt: skip
@options.ROUNDS
@options.SECONDS
@options.MODELS
@options.OUT
def main(only: tuple[str, ...], rounds: int, seconds: float, models: Path, out: Path | None) -> None:
    """Compare servers over HTTP and gRPC on a machine that does nothing else. Each request sends one image to lstm.

    The command needs h2load (Debian: nghttp2-client). FastAPI needs 'make fastapi', and Triton 'make triton'. The
    load generator shares the server's processors.
    """
    with ExitStack() as stack:
        starts = {name: stack.enter_context(systems.HTTP[name].launch(models)) for name in only}
        servers = {name: stack.enter_context(served(start)) for name, start in starts.items()}

        def measure(turns: Turns) -> None:
            for load in LOADS:
                turns.each(only, MODEL, load, lambda name: loads.closed(
                    servers[name], systems.HTTP[name].send(servers[name], MODEL), loads.closed_loop(load), seconds,  # noqa: B023
                ))  # fmt: skip

        complete = options.complete("only", "models")
        COMPARISON.run(rounds, measure, out or (COMPARISON.file if complete else None))
