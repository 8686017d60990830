"""Puts an open loop on a server with `hangtag loadtest`, which counts latency from the planned time.

h2load does not fit: its timer accumulates delays, so that calls are sent ever later than planned, and it counts latency
from the time when a call was sent.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from studies.server.process import Served

_CONNECTIONS = 16


def run(server: Served, model: str, rate: float, seconds: float, *, seed: int = 0) -> dict[str, Any]:
    """Send calls with Poisson arrivals, and return `total` of the run in the load test's JSON.

    Args:
        rate: Calls a second.
        seconds: The minimum duration.

    Raises:
        click.ClickException: the load test wrote no results.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, "-m", "hangtag", "loadtest", model, "--server", server.address, "--json", str(out)]
        command += ["--rate", f"{rate:.1f}", "--seed", str(seed), "--blocks", "1"]
        command += ["--min-duration", f"{seconds}s", "--channels", str(_CONNECTIONS), "--processes", "1"]
        if server.ca is not None:
            command += ["--tls-ca", str(server.ca)]
        finished = subprocess.run(command, capture_output=True, text=True)  # status 1: calls were refused
        if not out.exists():
            raise click.ClickException(f"the load test wrote no results:\n{finished.stdout}{finished.stderr}")
        total: dict[str, Any] = json.loads(out.read_text())["runs"][0]["total"]
        return total
