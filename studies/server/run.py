"""Measures the server on both transports, an earlier server, Triton and bare ONNX Runtime, which take turns."""

import os
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from studies import options, results
from studies.server.comparison import measure_rounds, print_tables, progress_bar, versions
from studies.server.peers.bare import bare
from studies.server.report import RESULTS, tables
from studies.server.rounds import Rounds
from studies.server.scenarios import LOADS
from studies.server.systems import EARLIER, SYSTEMS, launches, networks

PACKAGES = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf")


@click.command()
@click.option("--only", type=options.Names(SYSTEMS), default=",".join(SYSTEMS), show_default=True, help="The systems.")
@click.option("--loads", type=options.Names(LOADS), default=",".join(LOADS), show_default=True, help="The loads.")
@options.ROUNDS
@options.SECONDS
@click.option("--commit", default=EARLIER, show_default=True, help="The commit of the earlier server.")
@options.MODELS
@options.OUT
def main(
    only: tuple[str, ...],
    loads: tuple[str, ...],
    rounds: int,
    seconds: float,
    commit: str,
    models: Path,
    out: Path | None,
) -> None:
    """Compare the server with other systems on a machine that does nothing else.

    \b
    python -m studies server run                                       everything, for the page
    python -m studies server run --only native,triton --loads 16,64    a short comparison

    Needs h2load (Debian: nghttp2-client), for Triton 'make triton', and for the earlier server git. The load
    generator shares the server's processors. What is measured relative to bare ONNX Runtime needs the system bare.
    """
    complete = set(only) == set(SYSTEMS) and set(loads) == set(LOADS)
    out = out or (RESULTS if complete else None)
    if only == ("bare",):
        raise click.UsageError("--only names no server: add one, such as native.")
    console = Console(stderr=True)
    command = f"python -m studies server run --rounds {rounds} --seconds {seconds:g}"
    command += "" if complete else f" --only {','.join(only)} --loads {','.join(loads)}"
    conditions = results.conditions(command, versions(PACKAGES)) | {"commit": commit}
    with ExitStack() as stack:
        models = stack.enter_context(networks(models))
        servers = launches(only, models, commit, stack)
        threads = len(os.sched_getaffinity(0))
        runtime = stack.enter_context(bare(models, threads)) if "bare" in only else None
        progress = stack.enter_context(progress_bar(console))
        task = progress.add_task("")

        def advance(description: str) -> None:
            progress.update(task, description=description, advance=1)

        def say(line: str) -> None:
            console.print(line, soft_wrap=True)

        measured = Rounds(servers, runtime, loads, seconds, advance, say)
        progress.update(task, total=rounds * measured.steps, completed=-1)
        lines = measure_rounds(rounds, measured.measure, conditions, out, console)
    print_tables(tables, lines, out)
