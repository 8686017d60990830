"""Lets one of three hosts fail in each way, while programs call all three, and records what these noticed."""

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import click

from studies import results
from studies.hosts import network
from studies.hosts.caller import DEADLINE
from studies.hosts.faults import FAULTS
from studies.hosts.figures import Figures, Span, figures
from studies.hosts.lab import Caller, Host, Lab, lab
from studies.hosts.promises import CALLERS, HURRIED, SHORT_TIMEOUT
from studies.hosts.report import RESULTS, promise_rows
from studies.results import Line

_BEFORE, _AFTER = 2.0, 13.0
"""Seconds that are observed before a fault and after the recovery, in which a connection attempt may take 5 s."""


@click.command()
@click.option("--fault", "names", type=click.Choice(list(FAULTS)), multiple=True, help="Only this one. Repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the page's", help="The results.")
def main(names: tuple[str, ...], out: Path) -> None:
    """Let hosts fail, on network namespaces of this machine. Needs root, iproute2 and HAProxy (Debian: haproxy).

    With --fault nothing is recorded.
    """
    if reason := network.missing():
        raise click.ClickException(f"no hosts can be made here: {reason}")
    if shutil.which("haproxy") is None:
        raise click.ClickException("HAProxy is missing: run 'sudo apt-get install haproxy'.")
    lines = {"conditions": results.conditions("python -m studies hosts run", _versions())}
    with lab() as hosts, hosts.proxy(), hosts.callers(CALLERS) as callers:
        for name in names or FAULTS:
            lines[name] = {"run": name} | _observe(name, hosts, hosts.hosts[1], callers)
            for caller, noticed in lines[name]["callers"].items():
                click.echo(f"{name}; {caller}: {noticed}")
    if not names:
        results.write(out, lines.values())
        for row in promise_rows({name: lines[name] for name in FAULTS}):
            click.echo("; ".join(row))


def _observe(name: str, hosts: Lab, host: Host, callers: Mapping[str, Caller]) -> Line:
    """Let a host fail and recover, and return what each caller noticed."""
    fault = FAULTS[name]
    time.sleep(_BEFORE)
    begun = time.monotonic()
    with fault.during(hosts, host):
        struck = time.monotonic()
        time.sleep(fault.seconds)
    healed = time.monotonic()
    time.sleep(_AFTER)
    span = Span(begun, struck, healed, end=time.monotonic() - 1)
    noticed: dict[str, Figures] = {}
    for caller, program in callers.items():
        program.wait_until(lambda calls: calls[-1].start > span.end)
        timeout = SHORT_TIMEOUT if caller == HURRIED else DEADLINE
        noticed[caller] = figures(program.calls, host.number, timeout, span)
    return {"seconds": healed - struck, "callers": {caller: asdict(each) for caller, each in noticed.items()}}


def _versions() -> dict[str, str]:
    haproxy = subprocess.run(["haproxy", "-v"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[2]
    return {"haproxy": haproxy} | {name: metadata.version(name) for name in ("grpcio", "onnxruntime")}
