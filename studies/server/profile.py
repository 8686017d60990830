"""Measures where a call's processor time goes on each transport: in which library, by `perf`."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import click

from studies import options, page, results
from studies.server import h2load
from studies.server.process import Served, hangtag_serve

RESULTS = Path(__file__).with_name("profile.jsonl")
TRANSPORTS = ("native", "grpc")
IN_FLIGHT = (1, 16, 64)
CONNECTIONS = 4
GROUPS: Mapping[str, str] = {
    "ONNX Runtime": r"onnxruntime",
    "network library": r"_native\.abi3|cygrpc|uvloop",
    "Python": r"libpython|^python|\.cpython-|\.abi3\.so",
    "kernel": r"^\[k",
    "C library and others": r".",
}
"""The libraries of a group, by a regular expression; the first that fits counts."""
_SAMPLES_PER_SECOND = 997  # a prime, so that sampling does not keep step with anything periodic
_LINE = re.compile(r"^\s*([\d.]+)%\s+(\S+)")


@click.command()
@click.option("--model", default="lstm", show_default=True)
@click.option("--calls", type=click.IntRange(100), default=20_000, show_default=True, help="Calls of each measurement.")
@options.MODELS
def main(model: str, calls: int, models: Path) -> None:
    """Profile the server with one image a call, on both transports, with 1, 16 and 64 calls in flight.

    Needs perf (Debian: linux-perf) and the right to use it on one's own processes, and h2load. Run it on a machine
    that does nothing else.
    """
    if shutil.which("perf") is None:
        raise click.ClickException("perf is missing; Debian and Ubuntu have it in the package linux-perf.")
    lines = [results.conditions(f"python -m studies server profile --calls {calls}", {"h2load": h2load.version()})]
    for transport in TRANSPORTS:
        with closing(Served(hangtag_serve(models, "--transport", transport))) as server:
            for in_flight in IN_FLIGHT:
                measured = profile(server, model, in_flight, calls)
                lines.append({"run": f"{transport} {in_flight}", "microseconds": measured})
                click.echo(f"{transport}, {in_flight} in flight: {sum(measured.values()):.0f} µs a call")
    results.write(RESULTS, lines)
    click.echo(table())


def profile(server: Served, model: str, in_flight: int, calls: int) -> dict[str, float]:
    """Microseconds of processor time that a call takes in each group of libraries.

    Raises:
        click.ClickException: perf could not record, or a call was not answered.
    """
    clients = min(CONNECTIONS, in_flight)
    load = h2load.Load(calls, clients=clients, streams=in_flight // clients)
    h2load.run(server.url, model, h2load.Load(calls // 10, clients=load.clients, streams=load.streams))  # warm-up
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "perf.data")
        frequency, process = str(_SAMPLES_PER_SECOND), str(server.pid)
        command = ("perf", "record", "--freq", frequency, "--pid", process, "--output", str(data))
        recording = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.5)  # perf says nothing when it has attached
        before = server.cpu_seconds()
        h2load.run(server.url, model, load)
        seconds = server.cpu_seconds() - before
        recording.terminate()
        _, problem = recording.communicate()
        report = subprocess.run(
            ["perf", "report", "--input", data, "--sort", "dso", "--stdio"], capture_output=True, text=True
        )
    shares = group_shares(report.stdout)
    if not shares:
        raise click.ClickException(f"perf recorded nothing:\n{problem.decode()}{report.stderr}")
    return {group: share * seconds / calls * 1e6 for group, share in shares.items()}


def group_shares(report: str) -> dict[str, float]:
    """The share of each group in the output of `perf report --sort dso`; empty where it lists no library."""
    shares = dict.fromkeys(GROUPS, 0.0)
    for line in report.splitlines():
        if match := _LINE.match(line):
            group = next(group for group, pattern in GROUPS.items() if re.search(pattern, match[2]))
            shares[group] += float(match[1]) / 100
    total = sum(shares.values())
    return {group: share / total for group, share in shares.items()} if total else {}


def table() -> str:
    """The table for docs/performance.md. Raises click.ClickException where there are no results."""
    lines = results.read(RESULTS)
    command = lines["conditions"]["command"]
    rows = []
    for name, line in lines.items():
        if name == "conditions":
            continue
        transport, in_flight = name.split()
        figures = line["microseconds"]
        cells = (f"{figures[group]:.0f}" for group in GROUPS)
        rows.append((f"`{transport}`", in_flight, *cells, f"{sum(figures.values()):.0f}"))
    head = ("transport", "in flight", *GROUPS, "all")
    source = "Made by `make docs` from [studies/server/profile.jsonl](../studies/server/profile.jsonl)"
    return f"{source}: `{command}`, {lines['conditions']['date']}, microseconds a call:\n\n{page.table(head, rows)}"
